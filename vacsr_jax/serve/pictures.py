"""The pictures of an index as a browser gets them: decoded and encoded again, so that no file is sent as it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from vacsr_jax.data.given import read_picture
from vacsr_jax.report.plots import THUMBNAIL, encode_image
from vacsr_jax.search.stores.base import Known
from vacsr_jax.serve.answers import picture_file
from vacsr_jax.serve.requests import DECODED_AT_ONCE

REMEMBERED = 2**26  # bytes of thumbnails
LARGEST = 2048  # pixels of the longer side


class Encoded(NamedTuple):
    """A file's bytes and their media type."""

    blob: bytes
    media_type: str


class Pictures:
    """Small versions of pictures, remembered by the id of their document."""

    def __init__(self) -> None:
        self._thumbnails: OrderedDict[str, Encoded] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def remembered(self, document: str) -> Encoded | None:
        with self._lock:
            if document in self._thumbnails:
                self._thumbnails.move_to_end(document)
            return self._thumbnails.get(document)

    def thumbnail(self, document: str, known: Known) -> Encoded:
        """A small version of a picture; see `encoded_picture`."""
        found = encoded_picture(known, THUMBNAIL)
        with self._lock:
            if document not in self._thumbnails:
                self._thumbnails[document] = found
                self._bytes += len(found.blob)
                while self._bytes > REMEMBERED:
                    self._bytes -= len(self._thumbnails.popitem(last=False)[1].blob)
        return found


def encoded_picture(known: Known, side: int = LARGEST) -> Encoded:
    """A document's picture of at most `side` pixels a side, upright, as PNG or JPEG.

    Raises:
      ValueError: if it has none, or its file is not there or cannot be read.
    """
    path = picture_file(known.content) if known.content is not None and known.modality == "image" else None
    if path is None or not path.is_file():
        raise ValueError("there is no picture that can be shown")
    with DECODED_AT_ONCE:
        pixels = np.asarray(read_picture(path, draft=side))
        blob, kind, _ = encode_image(pixels, side)
    return Encoded(blob, f"image/{kind}")
