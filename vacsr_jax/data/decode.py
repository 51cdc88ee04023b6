"""Decodes image files to RGB."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

# The formats that are decoded, whatever the file name. Others may start a program: Pillow runs Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 2**26  # 67 million; a larger picture is treated as a decompression bomb
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def decode_image(path: str | os.PathLike | BinaryIO, *, draft: int = 0) -> np.ndarray:
    """Decodes an image file, given as a path or an open file, to uint8 RGB [height, width, 3].

    Applies the EXIF orientation, blends transparency onto white, scales 16-bit grey to 8 bits, converts palettes and
    CMYK, and takes the first frame of an animation.

    Args:
      draft: decodes a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose sides have at least this many pixels
        (`PIL.Image.draft`). That is faster, and not the same as resizing the whole image. 0: the whole image.

    Raises:
      ValueError: if the image exceeds `MAX_PIXELS`, or has 32-bit integer or float pixels, whose range is unknown.
      Exception: whatever Pillow raises for a broken file.
    """
    return np.asarray(decode_picture(path, draft=draft))


def decode_picture(path: str | os.PathLike | BinaryIO, *, draft: int = 0) -> Image.Image:
    """Decodes an image file as `decode_image` does, to a PIL image of mode RGB: without the copy that an array needs.

    Nothing else is copied either, unless the file asks for it. Each copy of a photograph costs up to a fifth of the
    time that decoding takes, most of it for memory that the system has to clear.
    """
    with Image.open(path, formats=FORMATS) as opened:
        image: Image.Image = opened
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"has {width} x {height} pixels, more than {MAX_PIXELS}; make it smaller")
        if draft:
            opened.draft(None, (draft, draft))
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in _SIXTEEN_BIT_MODES:
            return Image.fromarray(_grey_16_bit(np.asarray(image)))
        if image.mode == "F":
            raise ValueError("has floating-point pixels, whose range is unknown; save it with 8 bits")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")


def _grey_16_bit(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("has 32-bit integer pixels, whose range is unknown; save it with 8 or 16 bits")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
