"""What a database must do to hold the documents of an index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.filters import Fields, Where, check_metadata
from vacsr_jax.search.standardize.ranking import Hits, Store, affine_maps, candidates
from vacsr_jax.search.standardize.statistics import ModalityStats

REQUEST = 8 << 20  # bytes of vectors in one request, about


class Known(NamedTuple):
    """What is known of a document: its modality, and its text or its picture's file, if that was given."""

    modality: str
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

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The unit vectors float32 [d] of the documents with these ids, as far as they are there."""

    def settle(self) -> None:
        """Makes what was added durable, and quick to search."""

    def drop(self, collection: str | None = None) -> None:
        """Removes the collection, or another one of the same database, if it exists."""

    def close(self) -> None:
        """Ends the connection."""


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


Line = tuple[list[str], np.ndarray]  # a query's documents, best first: ids, and float32 cosines


def full(found: Sequence[Line], k: int, advice: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and cosines [q, k] of what each query found; raises ValueError if one found fewer."""
    check_found([ids for ids, _ in found], k, advice)
    return np.array([ids for ids, _ in found], object), np.stack([scores for _, scores in found])


def merge_nearest(
    nearest: Callable[[int, str], list[Line]],
    stats: ModalityStats,
    k: int,
    advice: str,
    query_modality: str,
    prior: Mapping[str, float | int] | None,
    per_modality_k: Mapping[str, int] | int | None,
) -> Hits:
    """`ranking.search` of the modalities that were fitted, without counting their documents first.

    Args:
      nearest: k and a modality -> what each query finds, which may be fewer than k.
      advice: what to do if fewer than k are found in all.
    """
    limits = candidates(dict.fromkeys(stats.modalities, k), k, per_modality_k)
    means, stds, priors = affine_maps(stats, tuple(limits), query_modality, prior)
    lists = [nearest(n, name) for name, n in limits.items()]
    columns: list[list[np.ndarray]] = []
    for lines in zip(*lists, strict=True):
        ids = np.array([x for found, _ in lines for x in found], object)
        names = np.array([name for name, (found, _) in zip(limits, lines, strict=True) for _ in found], object)
        score = np.concatenate([scores for _, scores in lines])
        z = [(scores - mean) / std for (_, scores), mean, std in zip(lines, means, stds, strict=True)]
        order = np.argsort(-np.concatenate([x + b for x, b in zip(z, priors, strict=True)]), kind="stable")[:k]
        columns.append([x[order] for x in (ids, names, score, np.concatenate(z))])
    check_found([ids for ids, *_ in columns], k, advice)
    return Hits(*(np.stack(column) for column in zip(*columns, strict=True)))


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
