"""What a database must do to hold the documents of an index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.filters import Fields, Where, check_metadata
from vacsr_jax.search.standardize.ranking import Store

REQUEST = 8 << 20  # bytes of vectors in one request, about


class Document(NamedTuple):
    """What a store keeps of a document: its unit vector float32 [d], and its text or its picture's file, if given."""

    vector: np.ndarray
    content: str | None


class DocumentStore(Store, Protocol):
    """A `ranking.Store` that is written to, filtered, and read by id."""

    @property
    def dim(self) -> int | None:
        """The numbers of a vector; None if there is no collection yet."""

    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str,
        contents: Sequence[str | None] | None = None,
        metadata: Sequence[Fields | None] | None = None,
    ) -> None:
        """Adds documents; one whose id is there already is replaced. Documents of a request are all there, or none."""

    def filtered(self, where: Where) -> DocumentStore:
        """The same documents but for those that a filter leaves out; see `search.filters`."""

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents with these ids, as far as they are there."""

    def settle(self) -> None:
        """Makes what was added durable, and quick to search."""

    def drop(self) -> None:
        """Removes the collection, if it exists."""


class Rows(NamedTuple):
    """Documents that are about to be written, all checked."""

    vectors: np.ndarray
    ids: list[str]
    contents: Sequence[str | None]
    metadata: list[dict[str, Any]]

    def parts(self) -> Iterator[Rows]:
        """The same in parts that fit a request."""
        size = max(1, REQUEST // (4 * self.vectors.shape[1]))
        for start in range(0, len(self.ids), size):
            yield Rows(*(column[start : start + size] for column in self))


def check_rows(
    embeddings: Vectors,
    ids: Names,
    contents: Sequence[str | None] | None,
    metadata: Sequence[Fields | None] | None,
    dim: int | None,
) -> Rows:
    """Raises ValueError if `checks` refuses an embedding or id, or `check_metadata` the metadata."""
    vectors = check_embeddings(embeddings, dim, "embeddings")
    contents = contents if contents is not None else [None] * len(vectors)
    return Rows(vectors, check_ids(ids, len(vectors), ()), contents, check_metadata(metadata, len(vectors)))


def check_found(found: Sequence[Sequence], k: int, advice: str) -> None:
    if any(len(line) < k for line in found):
        raise ValueError(f"k: got {k}, but fewer documents were found; lower k, or {advice}")


@contextlib.contextmanager
def one_line(where: str, *kinds: type[BaseException]) -> Iterator[None]:
    """Turns a database's own errors into an OSError of one line, which names the collection."""
    try:
        yield
    except kinds as error:
        told = getattr(error, "message", None) or str(error)
        raise OSError(f"{where}: {' '.join(str(told).split())[:300]}") from error


