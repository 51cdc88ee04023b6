"""What people hand to a loaded model: pictures and texts in many forms, turned into the one that it takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import FILES, Picture, as_array, decode_picture, orientation


def as_pictures(images: Any) -> Sequence[Picture]:
    """The pictures that were given: one alone, an array [n, h, w, 3] or of paths, or any iterable of pictures.

    Raises:
      ValueError: if there is none, or they are a dict.
    """
    if isinstance(images, (*FILES, Image.Image)) or hasattr(images, "read"):
        return [images]
    if hasattr(images, "__array__"):
        x = as_array(images)
        one = x.dtype.kind not in "UO" and x.ndim < 4
        images = [x] if one else x.ravel().tolist() if x.dtype.kind in "UO" else list(x)
    elif isinstance(images, dict) or not isinstance(images, Iterable):
        raise ValueError(f"images: got {type(images).__name__}, expected pictures: paths, PIL images or uint8 arrays")
    elif not isinstance(images, Sequence):
        images = list(images)
    if len(images) == 0:
        raise ValueError("images: got none, expected at least one")
    return images


def as_texts(texts: Any) -> Sequence[str]:
    """The texts that were given: one alone, or any iterable of texts; the tokenizer checks each of them.

    Raises:
      ValueError: if they are bytes, a dict, or no texts at all.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, np.ndarray):
        return texts.ravel().tolist()
    if isinstance(texts, bytes | dict) or not isinstance(texts, Iterable):
        hint = "; decode it: text.decode('utf-8')" if isinstance(texts, bytes) else ""
        raise ValueError(f"texts: got {type(texts).__name__}, expected a str or a sequence of str{hint}")
    return texts if isinstance(texts, Sequence) else list(texts)


@dataclass(frozen=True)
class GivenImages:
    """A `Source` of pictures as people give them, preprocessed for a model.

    Attributes:
      images: see `as_pictures`.
      preprocess: a PIL image or array -> uint8 [s, s, 3].
      draft: see `decoding.decode_image`; 0: decode the whole image.
    """

    images: Sequence[Picture]
    preprocess: Callable[[Any], np.ndarray]
    draft: int = 0
    captions: Sequence[Sequence[str]] = ()
    labels: None = None
    class_names: Sequence[str] = ()

    def __post_init__(self):
        for image in self.images:
            if isinstance(image, Image.Image):
                with contextlib.suppress(Exception):  # raised again, with the picture's number, in its turn
                    image.load()  # here, because threads must not load one image, or its EXIF data, at once
                    orientation(image)

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        image = self.images[index]
        if isinstance(image, str | os.PathLike):
            return self._of_file(image)
        try:
            return self.preprocess(image if isinstance(image, np.ndarray) else decode_picture(image))
        except Exception as error:  # Pillow raises half a dozen types for broken pictures
            raise ValueError(f"images[{index}]: {error}") from error

    def _of_file(self, path: str | os.PathLike) -> np.ndarray:
        picture = read_picture(path, draft=self.draft)
        try:
            return self.preprocess(picture)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


class UnreadablePictureError(ValueError):
    """A file is there, but no picture can be made of it."""


def read_picture(path: str | os.PathLike, *, draft: int = 0) -> Image.Image:
    """Decodes a file; a ValueError that names it if that fails."""
    if "://" in str(path):
        raise ValueError(f"{path} is an address, not a file; download it first")
    try:
        return decode_picture(path, draft=draft)
    except Exception as error:  # Pillow raises half a dozen types for broken files
        raise UnreadablePictureError(f"{path} cannot be read ({error}); replace or remove it") from error
