"""What a database must do to hold the documents of an index."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.filters import Fields, Where, check_metadata
from vacsr_jax.search.standardize.ranking import Hits, affine_maps, candidates
from vacsr_jax.search.standardize.statistics import ModalityStats

REQUEST = 8 << 20  # bytes of vectors in one request, about


class Known(NamedTuple):
    """What is known of a document: its modality, and its text or its picture's file, if that was given."""

    modality: str
    content: str | None


class DocumentStore(ABC):
    """A `ranking.Store` that is written to, filtered, searched in one call, and read by id."""

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """The numbers of a vector; None if there is no collection yet."""

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted."""

    @abstractmethod
    def count(self, modality: str) -> int:
        """The number of documents of a modality."""

    @abstractmethod
    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, or if fewer than k documents are found.
        """

    @abstractmethod
    def search(
        self,
        stats: ModalityStats,
        queries: Vectors,
        k: int,
        *,
        query_modality: str = "text",
        prior: Mapping[str, float | int] | None = None,
        per_modality_k: Mapping[str, int] | int | None = None,
    ) -> Hits:
        """`ranking.search` without counting documents. Those of a modality that was not fitted are not found."""

    @abstractmethod
    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str,
        contents: Sequence[str | None] | None = None,
        metadata: Sequence[Fields | None] | None = None,
    ) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        A document whose id is already there is replaced.

        Raises:
          ValueError: if `checks` refuses an embedding or id, `check_metadata` the metadata, or if the collection is of
            another dimension.
        """

    @abstractmethod
    def filtered(self, where: Where) -> DocumentStore:
        """The same documents but for those that a filter leaves out; see `search.filters`."""

    @abstractmethod
    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The unit vectors float32 [d] of the documents with these ids, as far as they are there."""

    @abstractmethod
    def settle(self) -> None:
        """Makes what was added durable, and quick to search."""

    @abstractmethod
    def drop(self, collection: str | None = None) -> None:
        """Removes the collection, or another one of the same database, if it exists."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection."""


Line = tuple[list[str], np.ndarray]  # a query's documents, best first: ids, and float32 cosines


class MergingStore(DocumentStore):
    """A store that finds the documents of one modality; the modalities are merged on this side."""

    advice: str  # what to do if it finds too few

    @abstractmethod
    def _nearest(self, queries: np.ndarray, k: int, modality: str) -> list[Line]:
        """Up to k documents of a modality for each query, float32 [q, d]."""

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        found = self._nearest(check_embeddings(queries, self.dim, "queries"), k, modality)
        check_found([ids for ids, _ in found], k, self.advice)
        return np.array([ids for ids, _ in found], object), np.stack([scores for _, scores in found])

    def search(
        self,
        stats: ModalityStats,
        queries: Vectors,
        k: int,
        *,
        query_modality: str = "text",
        prior: Mapping[str, float | int] | None = None,
        per_modality_k: Mapping[str, int] | int | None = None,
    ) -> Hits:
        checked = check_embeddings(queries, self.dim, "queries")
        limits = candidates(dict.fromkeys(stats.modalities, k), k, per_modality_k)
        means, stds, priors = affine_maps(stats, tuple(limits), query_modality, prior)
        lists = [self._nearest(checked, n, name) for name, n in limits.items()]
        columns: list[list[np.ndarray]] = []
        for lines in zip(*lists, strict=True):
            ids = np.array([x for found, _ in lines for x in found], object)
            names = np.array([name for name, (found, _) in zip(limits, lines, strict=True) for _ in found], object)
            score = np.concatenate([scores for _, scores in lines])
            z = [(scores - mean) / std for (_, scores), mean, std in zip(lines, means, stds, strict=True)]
            order = np.argsort(-np.concatenate([x + b for x, b in zip(z, priors, strict=True)]), kind="stable")[:k]
            columns.append([x[order] for x in (ids, names, score, np.concatenate(z))])
        check_found([ids for ids, *_ in columns], k, self.advice)
        return Hits(*(np.stack(column) for column in zip(*columns, strict=True)))


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
            rows = slice(start, start + size)
            yield Rows(self.vectors[rows], self.ids[rows], self.contents[rows], self.metadata[rows])


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


def check_found(found: Sequence[Sequence | np.ndarray], k: int, advice: str) -> None:
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


def in_parts(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    """Each id once, in parts of a size."""
    once = list(dict.fromkeys(ids))
    yield from (once[start : start + size] for start in range(0, len(once), size))
