"""The image processor's file is obeyed, or refused by the name of the field that cannot be."""

import json

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.towers.base import VisionConfig, normalize_pixels
from vacsr_jax.towers.image_processor import read_preprocessing, write_preprocessor

SIZE = 24
TYPES = {"CLIP": "CLIPImageProcessorPil", "Siglip": "SiglipImageProcessorPil"}


def vision_of(folder, family="CLIP"):
    sizes = {"image_size": SIZE, "patch_size": 8, "width": 8, "layers": 1, "heads": 1, "mlp_width": 8}
    return VisionConfig(**sizes, **read_preprocessing(folder, family, SIZE))


def write(folder, values, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(values))


OBEYED = {
    "CLIP's": ("CLIP", {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
    "a number": ("CLIP", {"size": 24, "crop_size": 24}),
    "resized larger, then cropped": ("CLIP", {"size": {"shortest_edge": 31}, "crop_size": 24}),
    "squashed, then cropped": ("CLIP", {"size": {"height": 31, "width": 31}, "crop_size": 24}),
    "squashed": ("CLIP", {"size": {"height": 24, "width": 24}, "do_center_crop": False}),
    "SigLIP's": ("Siglip", {"size": {"height": 24, "width": 24}}),
    "bilinear": ("Siglip", {"size": {"height": 24, "width": 24}, "resample": 2}),
    "Lanczos": ("CLIP", {"size": 24, "crop_size": 24, "resample": 1}),
    "nearest": ("CLIP", {"size": 24, "crop_size": 24, "resample": 0}),
    "another factor": ("Siglip", {"size": {"height": 24, "width": 24}, "rescale_factor": 1 / 127.5}),
    "not rescaled": ("Siglip", {"size": {"height": 24, "width": 24}, "do_rescale": False, "image_std": [90, 80, 70]}),
    "not normalized": ("CLIP", {"size": 24, "crop_size": 24, "do_normalize": False}),
    "mean and std": (
        "CLIP",
        {"size": 24, "crop_size": 24, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    ),
    "null fields": ("Siglip", {"size": {"height": 24, "width": 24}, "do_convert_rgb": None, "image_mean": None}),
}


@pytest.mark.parametrize("what", OBEYED)
@pytest.mark.parametrize("shape", [(50, 70), (90, 40), (24, 24)])
def test_pixels_are_those_of_transformers(what, shape, tmp_path):
    import transformers

    family, values = OBEYED[what]
    write(tmp_path, {**values, "image_processor_type": TYPES[family].removesuffix("Pil")})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    given = {name: x for name, x in values.items() if x is not None}
    theirs = getattr(transformers, TYPES[family])(**given)(image, return_tensors="np").pixel_values[0]
    vision = vision_of(tmp_path, family)
    ours = normalize_pixels(preprocess(image, **vision.preprocessing)[None], vision)[0]
    scale = max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs.transpose(1, 2, 0) / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("what", ["CLIP's", "resized larger, then cropped", "squashed", "bilinear", "mean and std"])
def test_what_is_written_is_read(what, tmp_path):
    family, values = OBEYED[what]
    write(tmp_path, values)
    vision = vision_of(tmp_path, family)
    (tmp_path / "preprocessor_config.json").write_bytes(write_preprocessor(vision))
    assert vision_of(tmp_path, "Siglip" if family == "CLIP" else "CLIP") == vision


REFUSED = {
    "do_resize": ({"do_resize": False}, "do_resize: got False, expected true: images of any size must become 24 x 24"),
    "do_pad": ({"do_pad": True}, "do_pad: got True, expected no such field, or false"),
    "do_flip_channel_order": ({"do_flip_channel_order": True}, "do_flip_channel_order: got True"),
    "crop_pct": ({"crop_pct": 0.9}, "crop_pct: got 0.9, expected no such field"),
    "crop_size": ({"crop_size": 32}, "crop_size: got 32, expected 24, the size that the model takes"),
    "two crops": (
        {"crop_size": {"height": 24, "width": 32}},
        "crop_size: got {'height': 24, 'width': 32}, expected 24",
    ),
    "no crop": ({"do_center_crop": False}, "do_center_crop: got False, expected true: resized by its shortest edge"),
    "smaller": ({"size": {"shortest_edge": 20}}, "size: got {'shortest_edge': 20}, expected at least 24"),
    "longest edge": (
        {"size": {"longest_edge": 24}},
        "size: got {'longest_edge': 24}, expected a number, shortest_edge",
    ),
    "oblong": (
        {"size": {"height": 24, "width": 30}},
        "size: got {'height': 24, 'width': 30}, expected one whole number",
    ),
    "size": ({"size": "big"}, "size: got 'big', expected one whole number of pixels"),
    "resample": ({"resample": 9}, "resample: got 9, expected a number from 0 to 5"),
    "rescale_factor": ({"rescale_factor": "x"}, "rescale_factor: got 'x', expected a positive number"),
    "a word": ({"do_normalize": "yes"}, "do_normalize: got 'yes', expected true or false"),
    "std": ({"image_std": [0.5, 0, 0.5]}, r"image_std: got \[0.5, 0, 0.5\], expected no zero"),
    "type": (
        {"image_processor_type": "BlipImageProcessor"},
        "image_processor_type: got 'BlipImageProcessor', expected",
    ),
    "NaFlex": ({"image_processor_type": "Siglip2ImageProcessor"}, "image_processor_type: got 'Siglip2ImageProcessor'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_obeyed_is_refused_by_name(what, tmp_path):
    values, message = REFUSED[what]
    write(tmp_path, values)
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json: {message}") as error:
        vision_of(tmp_path)
    assert "\n" not in str(error.value)


def test_a_squashed_image_of_another_size_is_refused(tmp_path):
    write(tmp_path, {"size": {"height": 32, "width": 32}, "do_center_crop": False})
    with pytest.raises(ValueError, match=r"size: got {'height': 32, 'width': 32}, expected 24 x 24"):
        vision_of(tmp_path)


def test_a_crop_that_open_clip_rounds_cannot_be_written():
    sizes = {"image_size": SIZE, "patch_size": 8, "width": 8, "layers": 1, "heads": 1, "mlp_width": 8}
    with pytest.raises(ValueError, match="cannot round a crop's corner as OpenCLIP does"):
        write_preprocessor(VisionConfig(**sizes, resize="crop_rounded"))
