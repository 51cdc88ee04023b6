"""Reads and writes Hugging Face's files about images (preprocessor_config.json), and refuses what cannot be obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.towers.base import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD, VisionConfig
from vacsr_jax.towers.hf import read_object, to_json

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
HALF = (0.5, 0.5, 0.5)
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
BYTE = 1 / 255  # the rescale factor that turns bytes into [0, 1]

SHARED = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": BYTE, "do_normalize": True}
# These fields say nothing about pixels, or something that is done anyway: images are always converted to RGB.
SILENT: tuple[str, ...] = (
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",
    "data_format",
)
SILENT += ("input_data_format", "default_to_square", "return_tensors", "device", "disable_grouping", "auto_map")
SILENT += ("_valid_processor_keys", "data_format")


def read_preprocessing(folder: Path, family: str, image_size: int) -> dict[str, Any]:
    """The fields of `VisionConfig` that say how images are prepared, from the folder's image processor.

    Reads preprocessor_config.json, or processor_config.json (transformers 5). `family` ("CLIP" or "Siglip") says what
    holds where neither is there or says nothing.

    Raises:
      ValueError: for whatever would not give a square of `image_size` pixels as the file says; it names the field.
    """
    if (folder / PREPROCESSOR).is_file():
        return obey(read_object(folder / PREPROCESSOR), family, image_size, str(folder / PREPROCESSOR))
    file = folder / PROCESSOR
    given = read_object(file).get("image_processor") if file.is_file() else None
    return obey(given if isinstance(given, dict) else {}, family, image_size, str(file))


def defaults(image_size: int) -> dict[str, dict[str, Any]]:
    """What a processor does where its file says nothing, by the beginning of its name."""
    return {
        "CLIP": {
            "size": {"shortest_edge": image_size},
            "do_center_crop": True,
            "crop_size": image_size,
            "image_mean": list(CLIP_PIXEL_MEAN),
            "image_std": list(CLIP_PIXEL_STD),
        },
        "Siglip": {
            "size": {"height": image_size, "width": image_size},
            "do_center_crop": False,
            "crop_size": image_size,
            "image_mean": list(HALF),
            "image_std": list(HALF),
        },
    }


def obey(given: Mapping[str, Any], family: str, image_size: int, where: str) -> dict[str, Any]:
    """See `read_preprocessing`."""

    def refuse(field: str, expected: str) -> ValueError:
        return ValueError(f"{where}: {field}: got {values.get(field, given.get(field))!r:.80}, expected {expected}")

    known = defaults(image_size)
    kind = given.get("image_processor_type") or given.get("feature_extractor_type")
    values: dict[str, Any] = dict(given)
    if kind is not None:
        if not isinstance(kind, str) or not kind.startswith(tuple(known)) or kind.startswith("Siglip2"):
            expected = "a CLIP or SigLIP image processor, since no other is known here"
            raise refuse("image_processor_type", expected)
        family = next(name for name in known if kind.startswith(name))
    values = {**SHARED, **known[family], **{name: x for name, x in given.items() if x is not None}}
    for field in values:
        if field not in SHARED and field not in known[family] and field not in SILENT and values[field]:
            raise refuse(field, "no such field, or false: it is not known here")
    for field in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not isinstance(values[field], bool):
            raise refuse(field, "true or false")
    if not values["do_resize"]:
        raise refuse("do_resize", f"true: images of any size must become {image_size} x {image_size} pixels")
    if isinstance(values["resample"], bool) or values["resample"] not in range(len(RESAMPLE)):
        raise refuse("resample", f"a number from 0 to {len(RESAMPLE) - 1}, as Pillow counts its filters")
    size = values["size"]
    squash = isinstance(size, Mapping) and set(size) == {"height", "width"}
    sides = list(size.values()) if isinstance(size, Mapping) else [size]
    if isinstance(size, Mapping) and not squash and set(size) != {"shortest_edge"}:
        raise refuse("size", "a number, shortest_edge, or height and width")
    if not all(is_size(side) for side in sides) or len(set(sides)) > 1:
        raise refuse("size", "one whole number of pixels, the same for both sides")
    if values["do_center_crop"]:
        crop = values["crop_size"]
        cropped = set(crop.values()) if isinstance(crop, Mapping) and set(crop) == {"height", "width"} else {crop}
        if cropped != {image_size}:
            raise refuse("crop_size", f"{image_size}, the size that the model takes")
        if sides[0] < image_size:
            raise refuse("size", f"at least {image_size}: a smaller image would be padded")
    elif not squash:
        raise refuse("do_center_crop", "true: resized by its shortest edge alone, an image is not square")
    elif sides[0] != image_size:
        raise refuse("size", f"{image_size} x {image_size}, the size that the model takes")
    return {
        "resize": "squash" if squash else "crop",
        "interpolation": interpolation(RESAMPLE[values["resample"]], squash),
        "resize_size": 0 if sides[0] == image_size else sides[0],
        **pixel_statistics(values, refuse),
    }


def interpolation(name: str, squash: bool) -> str:
    """The name for `VisionConfig`, which leaves out what a missing name means."""
    return "" if name == ("bilinear" if squash else "bicubic") else name


def pixel_statistics(values: Mapping[str, Any], refuse) -> dict[str, Any]:
    """`pixel_mean` and `pixel_std` for pixels in [0, 1]: (f x - m) / s = (x / 255 - m') / s' with m' = m / (255 f)."""
    factor = values["rescale_factor"] if values["do_rescale"] else 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise refuse("rescale_factor", "a positive number")
    mean, std = (values["image_mean"], values["image_std"]) if values["do_normalize"] else ([0.0] * 3, [1.0] * 3)
    found = {}
    for field, numbers in (("mean", mean), ("std", std)):
        if abs(factor / BYTE - 1) > 1e-6 and isinstance(numbers, list):
            numbers = [x * BYTE / factor if isinstance(x, int | float) else x for x in numbers]
        found[f"pixel_{field}"] = tuple(numbers) if isinstance(numbers, list) else numbers  # VisionConfig checks them
    if values["do_normalize"] and isinstance(std, list) and 0 in std:
        raise refuse("image_std", "no zero")
    return found


def is_size(value: object) -> bool:
    """Whether a value of a JSON file is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def write_preprocessor(vision: VisionConfig) -> bytes:
    """The bytes of preprocessor_config.json; `read_preprocessing` is the inverse.

    Raises:
      ValueError: if Hugging Face's processors cannot do what the tower expects.
    """
    squash = vision.resize == "squash"
    if vision.resize == "crop_rounded":
        raise ValueError(
            "Hugging Face's processors cannot round a crop's corner as OpenCLIP does (vision.resize is crop_rounded)"
        )
    by = vision.interpolation or ("bilinear" if squash else "bicubic")
    side = vision.resize_size or vision.image_size
    crop = not squash or side != vision.image_size
    size = {"height": side, "width": side} if squash else {"shortest_edge": side}
    crop_size = {"crop_size": {"height": vision.image_size, "width": vision.image_size}} if crop else {}
    return to_json(
        {
            "image_processor_type": "CLIPImageProcessor" if crop else "SiglipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": size,
            "resample": RESAMPLE.index(by),
            "do_center_crop": crop,
            **crop_size,
            "do_rescale": True,
            "rescale_factor": BYTE,
            "do_normalize": True,
            "image_mean": list(vision.pixel_mean),
            "image_std": list(vision.pixel_std),
        }
    )
