"""A model that turns contents into items, a few at a time, and remembers those of the index's documents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vacsr_jax.pair.base import Item
from vacsr_jax.pretrained import Pretrained, Scores
from vacsr_jax.scoring.sampling import Samples
from vacsr_jax.serve.answers import picture_file
from vacsr_jax.serve.requests import Document, Squares

REMEMBERED = 2**28  # bytes of items of documents


class Encoder:
    """A model's items of texts, pictures and documents. Only one thread may use it.

    Args:
      contents: id -> the text or picture file of a document.
      together: the most contents of one call. Larger sizes would compile while people wait.
      square: which of the `Squares` of a picture is this model's.
    """

    def __init__(self, model: Pretrained, contents: Mapping[str, str], together: int, square: str):
        self.model, self.contents = model, contents
        self._together, self._square = together, square
        self._remembered: OrderedDict[str, Item] = OrderedDict()
        self._bytes = 0

    def encode(self, contents: Sequence[Any], modality: str) -> Item:
        """Texts, `Squares` and `Document`s of one modality as items.

        Raises:
          ValueError: if the index does not hold the content of a document, or a text cannot be read.
        """
        if any(isinstance(x, Document) for x in contents):
            return joined([self._one(x, modality) for x in contents])
        return self._encode(contents, modality)

    def documents(self, ids: Sequence[str], modality: str) -> tuple[Item | None, list[int]]:
        """Items of those documents whose content can be read, and which of the ids these are."""
        found = {x: self._remembered[x] for x in ids if x in self._remembered}
        missing = [x for x in ids if x not in found and self._given(x, modality) is not None]
        for start in range(0, len(missing), self._together):
            part = missing[start : start + self._together]
            given = [self._given(x, modality) for x in part]
            for x, item in zip(part, self._readable(given, modality), strict=True):
                if item is not None:
                    found[x] = item
                    self._remember(x, item)
        rows = [i for i, x in enumerate(ids) if x in found]
        return (joined([found[ids[i]] for i in rows]) if rows else None), rows

    def content(self, given: Any, modality: str) -> Any:
        """What the model takes: the text, the square, or a document's text or file.

        Raises:
          ValueError: if the index does not hold the content of a document.
        """
        if not isinstance(given, Document):
            return getattr(given, self._square) if isinstance(given, Squares) else given
        content = self._given(given.id, modality)
        if content is None:
            raise ValueError(f"the index does not hold the content of {given.id!r:.200} as {modality}")
        return content

    def score(self, images: Item, texts: Item) -> Scores:
        """Scores of all pairs; both sides are padded to powers of two, for few compilations."""
        n, m = length(images), length(texts)
        found = self.model.score(padded(images), padded(texts))
        return Scores(*(None if x is None else np.asarray(x)[:n, :m] for x in found))  # type: ignore[arg-type]

    def sample(self, images: Item, texts: Item, draws: int, level: float) -> Samples:
        """Draws of all pairs' match probabilities, always the same for the same pairs."""
        n, m = length(images), length(texts)
        found = self.model.sample_similarity(jax.random.key(0), padded(images), padded(texts), draws, level)
        return Samples(*(x[..., :n, :m] for x in found))

    def _given(self, document: str, modality: str) -> Any:
        content = self.contents.get(document)
        return picture_file(content) if content is not None and modality == "image" else content

    def _one(self, given: Any, modality: str) -> Item:
        if not isinstance(given, Document):
            return self._encode([given], modality)
        self.content(given, modality)
        items, _ = self.documents([given.id], modality)
        if items is None:
            raise ValueError(f"the picture of {given.id!r:.200} cannot be read")
        return items

    def _encode(self, contents: Sequence[Any], modality: str) -> Item:
        given = [self.content(x, modality) for x in contents]
        encode: Any = self.model.encode_texts if modality == "text" else self.model.encode_images
        return joined([encode(given[i : i + self._together]) for i in range(0, len(given), self._together)])

    def _readable(self, given: Sequence[Any], modality: str) -> list[Item | None]:
        """The item of each content, or None for a picture that cannot be read."""
        skipped: dict[int, str] = {}
        if modality == "text":
            items = self.model.encode_texts(given)
        else:
            [items] = self.model.encode_image_parts(given, len(given), skipped=skipped)
        found, rows = [], iter(range(len(given)))
        for i in range(len(given)):
            found.append(None if i in skipped else row_of(items, next(rows)))
        return found

    def _remember(self, document: str, item: Item) -> None:
        self._remembered[document] = item
        self._bytes += size(item)
        while self._bytes > REMEMBERED:
            self._bytes -= size(self._remembered.popitem(last=False)[1])


def length(items: Item) -> int:
    return len(jax.tree.leaves(items)[0])


def size(items: Item) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(items))


def joined(parts: Sequence[Item]) -> Item:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def row_of(items: Item, i: int) -> Item:
    return jax.tree.map(lambda x: np.array(x[i : i + 1]), items)  # a copy: a view would keep the whole batch


def padded(items: Item) -> Item:
    """The items with copies of the first up to the next power of two."""
    missing = (1 << (length(items) - 1).bit_length()) - length(items)
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], missing, axis=0)]), items) if missing else items
