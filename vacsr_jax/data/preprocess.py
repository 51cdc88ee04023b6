"""Turns images of any size into the uint8 squares that a tower takes, on the host, as Hugging Face's CLIP does."""

from __future__ import annotations

import numpy as np
from PIL import Image

RESIZE = ("crop", "squash")
MAX_RESIZED = 2**26  # pixels, the size of the largest image that is read


def preprocess(image: Image.Image | np.ndarray, *, image_size: int, resize: str = "crop") -> np.ndarray:
    """Resizes the shorter side to `image_size` (bicubic, antialiased) and crops the centre: uint8 [s, s, 3], RGB.

    The result equals that of transformers' `CLIPImageProcessorPil`, bit for bit, before scaling and normalization,
    which the model does. Transparency is blended onto white. An array of the right size is returned unchanged.

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
    rgb = to_rgb(to_pil(image))
    if resize == "squash":
        return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))
    rgb = resize_shorter_side(rgb, image_size)
    left, top = (rgb.width - image_size) // 2, (rgb.height - image_size) // 2
    return np.asarray(rgb)[top : top + image_size, left : left + image_size].copy()


def to_pil(image: object) -> Image.Image:
    """Converts what `preprocess` accepts to a PIL image. Raises ValueError for anything else."""
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"image: got size {image.size}, expected at least one pixel")
        return image
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: got {type(image).__name__}, expected a PIL image or a uint8 array")
    gray = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 1)
    rgb = image.ndim == 3 and image.shape[-1] == 3
    if image.dtype != np.uint8 or not image.size or not (gray or rgb):
        raise ValueError(
            f"image: got {image.dtype} {list(image.shape)}, expected uint8 [h, w], [h, w, 1] or [h, w, 3]; "
            "pass other layouts as a PIL image"
        )
    return Image.fromarray(image.reshape(image.shape[:2]) if gray else image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB, blending transparency onto white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resizes an image so that its shorter side is `size` (bicubic, antialiased); the longer side is rounded down.

    Raises:
      ValueError: for an image so elongated that the result would fill the memory (1 x 1,000,000 pixels: 150 GB).
    """
    shorter = min(image.size)
    if size * size * max(image.size) > MAX_RESIZED * shorter:
        raise ValueError(
            f"image: got {image.width} x {image.height} pixels; with a shorter side of {size} it would exceed "
            f"{MAX_RESIZED} pixels. Cut it into pieces"
        )
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
