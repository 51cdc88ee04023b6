"""Turns images of any size into the uint8 squares that a tower takes, on the host, as Hugging Face's CLIP does."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import to_rgb

RESIZE = ("crop", "squash")
MAX_RESIZED = 2**26  # pixels, the size of the largest image that is read


def preprocess(image: Image.Image | np.ndarray, *, image_size: int, resize: str = "crop") -> np.ndarray:
    """Resizes the shorter side to `image_size` (bicubic, antialiased) and crops the centre: uint8 [s, s, 3], RGB.

    The result equals that of transformers' `CLIPImageProcessorPil`, bit for bit, before scaling and normalization,
    which the model does. `decoding.to_rgb` turns the image upright and blends transparency onto white. An array of the
    right size is returned unchanged.

    Args:
      image: a PIL image of any mode, or uint8 [h, w], [h, w, 1] or [h, w, 3].
      resize: "crop", as above; "squash": the whole image, ignoring its aspect ratio (bilinear, antialiased), as PCME++.

    Raises:
      ValueError: for another kind of image, an empty or too elongated one, or an `image_size` below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size: got {image_size}, expected at least 1")
    if resize not in RESIZE:
        raise ValueError(f"resize: got {resize!r}, expected one of {', '.join(RESIZE)}")
    square = (image_size, image_size, 3)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == square:
        return image
    rgb = to_rgb(image)
    if resize == "squash":
        return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))
    width, height = resized_shape(rgb.size, image_size)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    return resize_and_crop(rgb, (width, height), (left, top), image_size)


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


def resize_and_crop(image: Image.Image, shape: tuple[int, int], corner: tuple[int, int], size: int) -> np.ndarray:
    """Resizes to width and height `shape` (bicubic, antialiased), then crops a square: uint8 [size, size, 3].

    Pillow resizes the rows, then the columns. The crop's columns are taken between the two, which changes no pixel and
    saves the work on columns that would be dropped.
    """
    left, top = corner
    rows = image.resize((shape[0], image.height), Image.Resampling.BICUBIC).crop((left, 0, left + size, image.height))
    square = rows.resize((size, shape[1]), Image.Resampling.BICUBIC).crop((0, top, size, top + size))
    return np.asarray(square)
