"""One decoding of pictures, however they are given: files, bytes, PIL images and arrays become the same RGB pixels."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from vacsr_jax.data.picture_files import readable_formats

MAX_PIXELS = 2**26  # 67 million; a larger picture is treated as a decompression bomb

Transpose = Image.Transpose
# EXIF's orientation -> what shows the picture as it was meant.
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

FILES = (str, os.PathLike, bytes, bytearray, memoryview)
Picture = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray  # or an array of another library


def decode_image(image: Picture, *, draft: int = 0) -> np.ndarray:
    """Decodes an image to uint8 RGB [height, width, 3].

    Applies the EXIF orientation, blends transparency onto white, scales 16-bit grey to 8 bits, converts palettes and
    CMYK, and takes the first frame of an animation (of a PIL image: the current one).

    Args:
      image: a path, the bytes of a file, an open file, a PIL image, or an array; see `array_to_picture`.
      draft: decodes a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose sides have at least this many pixels
        (`PIL.Image.draft`). That is faster, and not the same as resizing the whole image. 0: the whole image.

    Raises:
      ValueError: if the image exceeds `MAX_PIXELS`, or has 32-bit integer or float pixels, whose range is unknown.
      Exception: whatever Pillow raises for a broken file.
    """
    return np.asarray(decode_picture(image, draft=draft))


def decode_picture(image: Picture, *, draft: int = 0, most_pixels: int | None = None) -> Image.Image:
    """Decodes an image as `decode_image` does, to a PIL image of mode RGB: without the copy that an array needs.

    Nothing else is copied either, unless the file asks for it. Each copy of a photograph costs up to a fifth of the
    time that decoding takes, most of it for memory that the system has to clear. A file of more pixels than
    `most_pixels`, or else MAX_PIXELS, is refused before it is decoded.
    """
    if isinstance(image, Image.Image) or not (isinstance(image, FILES) or hasattr(image, "read")):
        return to_rgb(image)
    file: Any = io.BytesIO(image) if isinstance(image, bytes | bytearray | memoryview) else image
    with Image.open(file, formats=readable_formats()) as opened:
        _check_size(opened, most_pixels or MAX_PIXELS)
        if draft:
            opened.draft(None, (draft, draft))
        return to_rgb(opened)


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Converts a PIL image of any mode, or an array, to an upright PIL image of mode RGB; see `decode_image`.

    An opaque, upright RGB image is returned as it is.

    Raises:
      ValueError: for anything else, such as a path, or an image without pixels.
    """
    if not isinstance(image, Image.Image):
        return array_to_picture(image)
    if 0 in image.size:
        raise ValueError(f"image: got size {image.size}, expected at least one pixel")
    _check_size(image, MAX_PIXELS)
    image.load()
    if (turn := UPRIGHT.get(orientation(image))) is not None:
        image = image.transpose(turn)
        image.info = {name: x for name, x in image.info.items() if name == "transparency"}  # else it is turned again
    if image.mode in _SIXTEEN_BIT_MODES:
        return Image.fromarray(_grey_16_bit(np.asarray(image)))
    if image.mode == "F":
        raise ValueError("has floating-point pixels, whose range is unknown; save it with 8 bits")
    if image.mode == "La":  # Pillow has no way from it to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy


def array_to_picture(array: Any) -> Image.Image:
    """Converts an array of numpy, or of a library that numpy can read (JAX, PyTorch), to a PIL image of mode RGB.

    Raises:
      ValueError: if it is not uint8 [h, w], [h, w, 1] or [h, w, 3]. The message says how to convert what people have:
        floats, channels first, RGBA, 16 bits.
    """
    x = as_array(array)
    if x.dtype != np.uint8 or not x.size or not (x.ndim == 2 or (x.ndim == 3 and x.shape[-1] in (1, 3))):
        raise ValueError(
            f"image: got {x.dtype} {list(x.shape)}, expected uint8 [h, w], [h, w, 1] or [h, w, 3]; {_advice(x)}"
        )
    return Image.fromarray(x.reshape(x.shape[:2]) if x.ndim == 3 and x.shape[-1] == 1 else x).convert("RGB")


def as_array(x: Any) -> np.ndarray:
    """The numpy array of an array or tensor.

    Raises:
      ValueError: for anything else, or a tensor that numpy cannot read, such as one on a GPU.
    """
    if not isinstance(x, np.ndarray):
        if not hasattr(x, "__array__"):
            raise ValueError(f"image: got {type(x).__name__}, expected a PIL image or a uint8 array")
        try:
            x = np.asarray(x)
        except Exception as error:  # of another library
            raise ValueError(f"image: got {type(x).__name__}, which numpy cannot read ({error})") from error
    return x


def _advice(x: np.ndarray) -> str:
    if x.ndim == 3 and x.shape[0] in (1, 3, 4) and x.shape[-1] not in (1, 3, 4):
        return "channels come last: pass x.transpose(1, 2, 0)"
    if x.ndim == 3 and x.shape[-1] > 4:
        return "if these are several grey images, pass list(x)"
    if x.ndim == 1:
        return "if these are embeddings, pass one array [n, d]"
    if x.dtype.kind == "f":
        return "convert floats in 0 to 1 by (255 * x).round().astype('uint8'), floats in 0 to 255 without the factor"
    if x.ndim == 4:
        return "this looks like several images: pass them to encode_images, or one at a time"
    return "pass other layouts as a PIL image"


def _check_size(image: Image.Image, most: int) -> None:
    width, height = image.size
    if width * height > most:
        raise ValueError(f"has {width} x {height} pixels, more than {most}; make it smaller")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none, or the EXIF data is damaged."""
    # Not ImageOps.exif_transpose: it also writes the EXIF data again, which fails where a camera wrote it badly.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # pixels are good where EXIF is damaged; Pillow raises half a dozen types for that
        return 1


def _grey_16_bit(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("has 32-bit integer pixels, whose range is unknown; save it with 8 or 16 bits")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
