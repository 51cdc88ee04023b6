"""Images of any size to the square of bytes a tower takes, on the host, as Hugging Face's CLIP does it."""

from __future__ import annotations

import numpy as np
from PIL import Image

RESIZE = ("crop", "squash")
MAX_RESIZED = 2**26  # pixels, as the largest image that is read


def preprocess(image: Image.Image | np.ndarray, *, image_size: int, resize: str = "crop") -> np.ndarray:
    """Shorter side to `image_size` (bicubic, antialiased), then the centre square: uint8 [s, s, 3], RGB.

    Bit for bit what transformers' `CLIPImageProcessorPil` does before it scales and normalizes, which the
    model does itself. Transparency is laid over white. An array of the right size is returned as it is.

    Args:
      image: a PIL image of any mode, or uint8 [h, w], [h, w, 1] or [h, w, 3].
      resize: "crop", as said; "squash": all of the image, without its aspect ratio (bilinear, antialiased), as PCME++.

    Raises:
      ValueError: for anything else, an empty image, one that is too long a strip, or an `image_size` below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size: got {image_size}, expected 1 at least")
    if resize not in RESIZE:
        raise ValueError(f"resize: got {resize!r}, expected one of {', '.join(RESIZE)}")
    is_array = isinstance(image, np.ndarray)
    if is_array and image.dtype == np.uint8 and image.shape == (image_size, image_size, 3):
        return image
    rgb = to_rgb(to_pil(image))
    if resize == "squash":
        return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR))
    rgb = resize_shorter_side(rgb, image_size)
    left, top = (rgb.width - image_size) // 2, (rgb.height - image_size) // 2
    return np.asarray(rgb)[top : top + image_size, left : left + image_size].copy()


def to_pil(image: object) -> Image.Image:
    """The PIL image of what `preprocess` accepts; ValueError for the rest."""
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
            "hand over other layouts as a PIL image"
        )
    return Image.fromarray(image.reshape(image.shape[:2]) if gray else image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode, with transparency over white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Bicubic with antialias; the longer side is rounded down.

    Raises:
      ValueError: for a strip so long that its resized form would fill the memory (1 x 1,000,000 pixels: 150 GB).
    """
    shorter = min(image.size)
    if size * size * max(image.size) > MAX_RESIZED * shorter:
        raise ValueError(
            f"image: got {image.width} x {image.height} pixels, which with {size} on the shorter side are more than "
            f"{MAX_RESIZED}; cut it into pieces"
        )
    width, height = (size if side == shorter else int(size * side / shorter) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
