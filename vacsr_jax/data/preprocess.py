"""Turns images of any size into the uint8 squares that a tower takes, on the host, as Hugging Face's processors do."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import to_rgb

RESIZE = ("crop", "crop_rounded", "squash")
INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MAX_RESIZED = 2**26  # pixels, the size of the largest image that is read


def preprocess(
    image: Image.Image | np.ndarray,
    *,
    image_size: int,
    resize: str = "crop",
    interpolation: str = "",
    resize_size: int = 0,
) -> np.ndarray:
    """Resizes an image (antialiased) and crops the centre to a square of `image_size` pixels: uint8 [s, s, 3], RGB.

    The result equals that of transformers' `CLIPImageProcessorPil` and `SiglipImageProcessorPil`, bit for bit, before
    scaling and normalization, which the model does. `decoding.to_rgb` turns the image upright and blends transparency
    onto white. An array of the right size is returned unchanged.

    Args:
      image: a PIL image of any mode, or uint8 [h, w], [h, w, 1] or [h, w, 3].
      resize: "crop": the shorter side is resized to `resize_size`, and the centre is cropped. "crop_rounded": the same,
        and an odd margin is halved as torchvision does, to the even number (OpenCLIP). "squash": the whole image is
        resized to a square of `resize_size`, ignoring its aspect ratio; a larger square is cropped.
      interpolation: a key of `INTERPOLATION`; "": bicubic for a crop, bilinear for "squash" (as PCME++).
      resize_size: at least `image_size`; 0: equal to it.

    Raises:
      ValueError: for another kind of image, an empty or too elongated one, a size below 1, or an unknown choice.
    """
    if image_size < 1:
        raise ValueError(f"image_size: got {image_size}, expected at least 1")
    if resize not in RESIZE:
        raise ValueError(f"resize: got {resize!r}, expected one of {', '.join(RESIZE)}")
    if resize_size and resize_size < image_size:
        raise ValueError(f"resize_size: got {resize_size}, expected at least image_size, which is {image_size}")
    if interpolation and interpolation not in INTERPOLATION:
        raise ValueError(f"interpolation: got {interpolation!r}, expected one of {', '.join(INTERPOLATION)}")
    square = (image_size, image_size, 3)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == square:
        return image
    rgb, side = to_rgb(image), resize_size or image_size
    by = INTERPOLATION[interpolation or ("bilinear" if resize == "squash" else "bicubic")]
    shape = (side, side) if resize == "squash" else resized_shape(rgb.size, side)
    halve = round if resize == "crop_rounded" else int
    left, top = (halve((length - image_size) / 2) for length in shape)
    if resize == "squash":
        whole = rgb.resize(shape, by)  # Pillow chooses which of the sides it resizes first
        return np.asarray(whole)[top : top + image_size, left : left + image_size]
    return resize_and_crop(rgb, shape, (left, top), image_size, by)


def resized_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Returns width and height of an image once its shorter side is `size`; the longer side is rounded down.

    Raises:
      ValueError: for an image so elongated that the result would fill the memory (1 x 1,000,000 pixels: 150 GB).
    """
    shorter = min(shape)
    if size * size * max(shape) > MAX_RESIZED * shorter:
        raise ValueError(
            f"image: got {shape[0]} x {shape[1]} pixels; with a shorter side of {size} it would exceed "
            f"{MAX_RESIZED} pixels. Cut it into pieces"
        )
    width, height = (size if side == shorter else int(size * side / shorter) for side in shape)
    return width, height


def resize_and_crop(
    image: Image.Image,
    shape: tuple[int, int],
    corner: tuple[int, int],
    size: int,
    interpolation: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resizes to width and height `shape` (antialiased), then crops a square: uint8 [size, size, 3].

    Pillow resizes the rows of a wide image, then its columns. The crop's columns are taken between the two, which
    changes no pixel and saves the work on columns that would be dropped. Of a tall image, Pillow (since 13) may resize
    the columns first, which rounds differently; there is nothing to save there.
    """
    left, top = corner
    if image.height >= image.width:
        return np.asarray(image.resize(shape, interpolation).crop((left, top, left + size, top + size)))
    rows = image.resize((shape[0], image.height), interpolation).crop((left, 0, left + size, image.height))
    square = rows.resize((size, shape[1]), interpolation).crop((0, top, size, top + size))
    return np.asarray(square)
