"""The pictures of an index as a browser gets them: decoded and encoded again, so that no file is sent as it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from vacsr_jax.data.given import read_picture
from vacsr_jax.report.plots import THUMBNAIL, encode_image
from vacsr_jax.serve.answers import picture_file
from vacsr_jax.serve.requests import DECODED_AT_ONCE

REMEMBERED = 2**26  # bytes of thumbnails
LARGEST = 2048  # pixels of the longer side


class Pictures:
    """Pictures by the id of their document. Only what the index names is opened, and only if it is a picture."""

    def __init__(self, contents: Mapping[str, str], kinds: Mapping[str, str]):
        self._contents, self._kinds = contents, kinds
        self._thumbnails: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def thumbnail(self, document: str) -> tuple[bytes, str]:
        """A small version and its media type; see `picture`."""
        with self._lock:
            if document in self._thumbnails:
                self._thumbnails.move_to_end(document)
                return self._thumbnails[document]
        found = self.picture(document, THUMBNAIL)
        with self._lock:
            if document not in self._thumbnails:
                self._thumbnails[document] = found
                self._bytes += len(found[0])
                while self._bytes > REMEMBERED:
                    self._bytes -= len(self._thumbnails.popitem(last=False)[1][0])
        return found

    def picture(self, document: str, side: int = LARGEST) -> tuple[bytes, str]:
        """A picture of at most `side` pixels a side, upright, as PNG or JPEG, and its media type.

        Raises:
          KeyError: if the index has no such picture, or its file is not there or cannot be read.
        """
        content = self._contents.get(document)
        path = picture_file(content) if content is not None and self._kinds.get(document) == "image" else None
        if path is None or not path.is_file():
            raise KeyError(document)
        with DECODED_AT_ONCE:
            try:
                pixels = np.asarray(read_picture(path, draft=side))
            except ValueError:
                raise KeyError(document) from None
            blob, kind, _ = encode_image(pixels, side)
        return blob, f"image/{kind}"
