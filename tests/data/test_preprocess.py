"""Preprocessing against transformers' own processor, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data.decoding import to_rgb
from vacsr_jax.data.preprocess import preprocess, resize_and_crop, resized_shape


def make_pixels(height, width, channels=3):
    """Noise over a ramp, so that a shift, a flip or another filter shows."""
    rng = np.random.default_rng(height * 1000 + width)
    ramp = np.linspace(0, 180, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None]
    pixels = (ramp + rng.integers(0, 35, (height, width, channels))).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.fixture(scope="module")
def theirs():
    from transformers import CLIPImageProcessorPil

    def run(image, size):
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            do_rescale=False,
            do_normalize=False,
        )
        return processor(image, return_tensors="np").pixel_values[0].transpose(1, 2, 0)

    return run


@pytest.mark.parametrize("size", [32, 63])
@pytest.mark.parametrize(
    "shape", [(37, 91), (300, 200), (200, 300), (20, 13), (32, 32), (63, 64), (31, 33), (5, 200), (90, 40)]
)
def test_sizes(theirs, shape, size):
    pixels = make_pixels(*shape)
    ours = preprocess(pixels, image_size=size)
    assert ours.dtype == np.uint8
    assert ours.shape == (size, size, 3)
    np.testing.assert_array_equal(ours, theirs(Image.fromarray(pixels), size))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_modes(theirs, mode):
    if mode == "RGBA":
        image = Image.fromarray(make_pixels(37, 91, 4))
    else:
        image = Image.fromarray(make_pixels(37, 91)).convert(mode)
    np.testing.assert_array_equal(preprocess(image, image_size=32), theirs(image, 32))


def test_a_palette_with_a_transparent_colour(theirs):
    image = Image.fromarray(make_pixels(37, 91)).convert("P")
    image.info["transparency"] = int(np.asarray(image)[18, 45])
    ours = preprocess(image, image_size=32)
    np.testing.assert_array_equal(ours, theirs(image, 32))
    del image.info["transparency"]
    assert (preprocess(image, image_size=32) != ours).any()


def test_transparency_is_white():
    image = Image.new("RGBA", (40, 50), (200, 0, 0, 0))
    assert (preprocess(image, image_size=16) == 255).all()


def test_grayscale_arrays():
    gray = make_pixels(37, 91, 1)
    from_image = preprocess(Image.fromarray(gray), image_size=32)
    np.testing.assert_array_equal(preprocess(gray, image_size=32), from_image)
    np.testing.assert_array_equal(preprocess(gray[..., None], image_size=32), from_image)


def test_the_right_size_is_not_touched():
    pixels = make_pixels(32, 32)
    assert preprocess(pixels, image_size=32) is pixels


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((9, 9, 3), np.float32),
        np.zeros((3, 9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        Image.new("RGB", (0, 9)),
    ],
    ids=["float", "channels_first", "rgba_array", "batch", "empty", "empty_image"],
)
def test_what_is_refused(bad):
    with pytest.raises(ValueError, match=r"image: got .*, expected"):
        preprocess(bad, image_size=4)


def test_a_strip_is_refused_before_it_fills_the_memory():
    with pytest.raises(ValueError, match=r"image: got 1000000 x 1 pixels; with a shorter side of 224"):
        preprocess(Image.new("RGB", (1_000_000, 1)), image_size=224)


def test_a_path_is_refused():
    with pytest.raises(ValueError, match="image: got str, expected a PIL image"):
        to_rgb("picture.png")


def test_image_size_is_positive():
    with pytest.raises(ValueError, match="image_size: got 0"):
        preprocess(np.zeros((9, 9, 3), np.uint8), image_size=0)


@pytest.mark.parametrize("shape", [(640, 480), (480, 640), (500, 333), (37, 37), (20, 45), (224, 300), (40, 90)])
def test_a_crop_between_the_passes_gives_the_pixels_of_one_after_them(shape):
    rng = np.random.default_rng(sum(shape))
    image = Image.fromarray(rng.integers(0, 256, (shape[1], shape[0], 3), np.uint8))
    for size in (24, 224):
        resized = resized_shape(shape, size)
        left, top = (int(rng.integers(side - size + 1)) for side in resized)
        whole = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
        found = resize_and_crop(image, resized, (left, top), size)
        np.testing.assert_array_equal(found, whole[top : top + size, left : left + size])
