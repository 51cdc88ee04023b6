"""What may be asked, as JSON: fields are checked, and pictures decoded, before anything waits for the device."""

from __future__ import annotations

import base64
import binascii
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import decode_picture

MOST_RESULTS = 2000
MOST_RERANKED = 200  # a second model reads each picture and text
MOST_ITEMS = 256  # texts, or pictures, of one request
LETTERS = 2000  # of a text; a model reads at most a few hundred
UPLOAD_BYTES = 2**24
UPLOAD_PIXELS = 2**25
BODY_BYTES = 3 * 2**24  # of a request: one picture of UPLOAD_BYTES as base64, or many small ones
DECODED_AT_ONCE = threading.Semaphore(2)  # pictures: 100 MB each at most


class TooLargeError(ValueError):
    """A picture or a request has too many bytes or pixels."""


@dataclass(frozen=True)
class Document:
    """A document of the index, by its id, in place of a text or picture."""

    id: str


class Squares(NamedTuple):
    """A picture as two models take it, uint8 [s, s, 3]: the one that embeds, and the one that scores."""

    embed: np.ndarray
    score: np.ndarray


Content = str | Squares | Document
Prepare = Callable[[Image.Image], Squares]


@dataclass(frozen=True)
class Search:
    """One query; see `parse_search`."""

    query: Content
    k: int = 10
    prior: tuple[tuple[str, float], ...] = ()
    modalities: tuple[str, ...] | None = None
    where: str | None = None  # JSON
    rerank: bool = True


@dataclass(frozen=True)
class Score:
    """Pictures and texts, each pair of which is scored; `interval` is the probability inside, `draws` asks for them."""

    images: tuple[Squares | Document, ...]
    texts: tuple[str | Document, ...]
    interval: float | None = None
    draws: bool = False


@dataclass(frozen=True)
class Embed:
    """Texts and pictures to embed."""

    texts: tuple[str, ...] = ()
    images: tuple[Squares, ...] = ()


@dataclass(frozen=True)
class Explain:
    """A picture and a text; which word found which place."""

    image: Squares | Document
    text: str


@dataclass(frozen=True)
class Diagnose:
    """How biased the index is."""


def parse_search(given: Any, prepare: Prepare) -> Search:
    """A search from {"text" | "image" | "like": the query, "k", "prior", "modalities", "where",
    "rerank"}.

    Raises:
      ValueError: for anything else, in one line that names the field.
      TooLargeError: for a picture over the limits.
    """
    given = fields(given, ("text", "image", "like", "k", "prior", "modalities", "where", "rerank"))
    queries = [name for name in ("text", "image", "like") if name in given]
    if len(queries) != 1:
        raise ValueError(
            f"got {' and '.join(queries) or 'no query'}, expected one of text, image (base64), like (an id)"
        )
    k = whole("k", given.get("k", 10), 1, MOST_RESULTS)
    modalities = given.get("modalities")
    if modalities is not None:
        modalities = tuple(text("modalities", x) for x in several("modalities", modalities))
    rerank = given.get("rerank", True)
    if not isinstance(rerank, bool):
        raise ValueError(f"rerank: got {shown(rerank)}, expected true or false")
    prior = given.get("prior", {})
    if not isinstance(prior, Mapping):
        raise ValueError(f'prior: got {shown(prior)}, expected an object such as {{"image": 0.5}}')
    where = given.get("where")
    if where is not None and not isinstance(where, Mapping):
        raise ValueError(f'where: got {shown(where)}, expected an object such as {{"source": "web"}}')
    where = json.dumps(where, sort_keys=True) if where else None
    offsets = tuple((text("prior", name), real(f"prior: {name}", x)) for name, x in sorted(prior.items()))
    [name] = queries
    if name == "text":
        query: Content = text("text", given["text"])
    elif name == "image":
        query = picture("image", given["image"], prepare)
    else:
        query = Document(text("like", given["like"]))
    return Search(query, k, offsets, modalities, where, rerank)


def parse_score(given: Any, prepare: Prepare) -> Score:
    """Pairs from {"images": [base64 or {"id"}], "texts": [text or {"id"}], "interval": 0.9}; see `parse_search`."""
    given = fields(given, ("images", "texts", "interval"))
    interval = given.get("interval")
    if interval is not None and not 0 < real("interval", interval) < 1:
        raise ValueError(f"interval: got {interval}, expected a number between 0 and 1 such as 0.9")
    texts = tuple(
        document("texts", x) if isinstance(x, Mapping) else text("texts", x)
        for x in several("texts", given.get("texts"))
    )
    images = tuple(
        document("images", x) if isinstance(x, Mapping) else picture(f"images[{i}]", x, prepare)
        for i, x in enumerate(several("images", given.get("images")))
    )
    return Score(images, texts, interval)


def parse_embed(given: Any, prepare: Prepare) -> Embed:
    """Texts and pictures from {"texts": [text], "images": [base64]}, either or both; see `parse_search`."""
    given = fields(given, ("texts", "images"))
    if not given:
        raise ValueError("got no field, expected texts, images (base64), or both")
    texts = tuple(text("texts", x) for x in several("texts", given["texts"])) if "texts" in given else ()
    images = several("images", given["images"]) if "images" in given else ()
    return Embed(texts, tuple(picture(f"images[{i}]", x, prepare) for i, x in enumerate(images)))


def fields(given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an object that are not null."""
    if not isinstance(given, dict):
        raise ValueError(f"got {shown(given)}, expected a JSON object with {', '.join(known)}")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"got the field {shown(unknown[0])}, expected {', '.join(known)}")
    return {name: x for name, x in given.items() if x is not None}


def several(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_ITEMS:
        got = f"{len(given)} of them" if isinstance(given, list) else shown(given)
        raise ValueError(f"{name}: got {got}, expected a list of 1 to {MOST_ITEMS}")
    return given


def text(name: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"{name}: got {shown(given)}, expected a text that is not blank")
    if len(given) > LETTERS:
        raise ValueError(f"{name}: got {len(given)} letters, expected {LETTERS} at most")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: got half a surrogate pair, expected Unicode text") from None
    return given


def document(name: str, given: Mapping[str, Any]) -> Document:
    if list(given) != ["id"]:
        raise ValueError(f'{name}: got {shown(given)}, expected {{"id": ID}} for a document of the index')
    return Document(text(f"{name}: id", given["id"]))


def whole(name: str, given: Any, least: int, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise ValueError(f"{name}: got {shown(given)}, expected a whole number from {least} to {most}")
    return given


def real(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= 1e6 or math.isnan(given):
        raise ValueError(f"{name}: got {shown(given)}, expected a number such as 0.5")
    return float(given)


def picture(name: str, given: Any, prepare: Prepare) -> Squares:
    """A picture from base64, also as a data URL, decoded as every other picture of the library."""
    if not isinstance(given, str):
        raise ValueError(f"{name}: got {shown(given)}, expected the base64 text of a picture's file")
    if len(given) > UPLOAD_BYTES * 4 // 3 + 100:
        raise TooLargeError(f"{name}: the file is too large, expected {UPLOAD_BYTES:,} bytes at most")
    if given.startswith("data:"):
        given = given.partition(",")[2]
    try:
        blob = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name}: not base64; send the bytes of a picture's file as base64 text") from None
    return decoded(name, blob, prepare)


def decoded(name: str, blob: bytes, prepare: Prepare) -> Squares:
    """The picture in a file's bytes, as the models take it: what waits in a queue is small.

    Raises:
      ValueError: if it cannot be read.
      TooLargeError: if it has more than UPLOAD_BYTES or UPLOAD_PIXELS.
    """
    if len(blob) > UPLOAD_BYTES:
        raise TooLargeError(f"{name}: got {len(blob):,} bytes, expected {UPLOAD_BYTES:,} at most")
    with DECODED_AT_ONCE:
        try:
            return prepare(decode_picture(blob, most_pixels=UPLOAD_PIXELS))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise TooLargeError(f"{name}: has more than {UPLOAD_PIXELS} pixels; make it smaller") from None
        except Exception as error:  # Pillow raises half a dozen types for broken files
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            if f"more than {UPLOAD_PIXELS}" in said:
                raise TooLargeError(f"{name}: {said}") from None
            if "BytesIO" in said:  # Pillow names the object, which tells a reader nothing
                said = "no PNG, JPEG, GIF, WebP, BMP or TIFF"
            raise ValueError(f"{name}: this is no picture that can be read ({said})") from None


def shown(given: Any) -> str:
    """A value as an error shows it: short, and on one line."""
    return f"{given!r:.60}"
