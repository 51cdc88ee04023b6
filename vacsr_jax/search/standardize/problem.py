"""Retrieval problems, queries over documents of several modalities, as arrays: scores, statistics, best documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.data.embeddings import Embeddings, check_same_space, excluded_rows, numbered, rows_of
from vacsr_jax.search.checks import Vectors
from vacsr_jax.search.standardize import statistics
from vacsr_jax.search.standardize.diagnosis import Diagnosis, diagnose
from vacsr_jax.search.standardize.pseudo_positives import cosines, hide, labelled_scores
from vacsr_jax.search.standardize.statistics import FEW_QUERIES, ModalityStats, aged

BLOCK_SCORES = 2**23  # scores of a block of queries: 32 MB of float32, in about ten copies
ITSELF = 0.99  # a larger mean of the best cosines means that the queries found themselves


@dataclasses.dataclass(frozen=True)
class RetrievalProblem:
    """Queries and documents as numbers.

    Vectors have unit length. A modality is its index among the names. Excluded documents and answers are row numbers of
    the documents; -1 means none.

    Attributes:
      queries, documents: float32 [q d], [n d].
      query_modality, modality: int [q], [n].
      query_modalities, modalities: the names.
      exclude, answers: int [q e], [q a].
    """

    queries: np.ndarray
    documents: np.ndarray
    query_modality: np.ndarray
    modality: np.ndarray
    query_modalities: tuple[str, ...]
    modalities: tuple[str, ...]
    exclude: np.ndarray
    answers: np.ndarray

    @property
    def block_size(self) -> int:
        """The number of queries that are scored at once."""
        return max(1, BLOCK_SCORES // len(self.documents))

    def blocks(self) -> Iterator[RetrievalProblem]:
        """Yields the problem with a few queries at a time."""
        for start in range(0, len(self.queries), self.block_size):
            part = slice(start, start + self.block_size)
            per_query = ("queries", "query_modality", "exclude", "answers")
            yield dataclasses.replace(self, **{name: getattr(self, name)[part] for name in per_query})

    def diagnose(self, stats: ModalityStats, k: int) -> Diagnosis:
        """Measures how biased the documents are towards one modality; see `diagnosis.diagnose`.

        Raises:
          ValueError: if the queries are of several modalities, or k is below 1.
        """
        asked = set(self.query_modality.tolist())
        if len(asked) > 1:
            raise ValueError(f"queries have {len(asked)} modalities, each with its own scale; diagnose one at a time")
        exclude = [row[row >= 0].astype(str).tolist() for row in self.exclude]
        return diagnose(_Documents(self), stats, self.queries, k, self.query_modalities[asked.pop()], exclude)


class _Documents:
    """A problem's documents as a store; a document's id is its row number, as a string."""

    def __init__(self, problem: RetrievalProblem):
        kinds = {name: np.flatnonzero(problem.modality == i) for i, name in enumerate(problem.modalities)}
        self._rows = {name: rows for name, rows in kinds.items() if len(rows)}
        self._documents = problem.documents

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def count(self, modality: str) -> int:
        return len(self._rows.get(modality, ()))

    def vectors(self, modality: str) -> Iterator[np.ndarray]:
        yield self._documents[self._rows[modality]]

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows[modality]
        documents, size = jnp.asarray(self._documents[rows]), max(1, BLOCK_SCORES // len(rows))
        parts = [queries[start : start + size] for start in range(0, len(queries), size)]
        found = [jax.device_get(jax.lax.top_k(cosines(part, documents), k)) for part in parts]
        scores, places = (np.concatenate(x) for x in zip(*found, strict=True))
        return rows.astype(str).astype(object)[places], scores


def make_problem(
    queries: Embeddings,
    documents: Embeddings,
    *,
    modalities: Sequence[str] | None = None,
    query_modalities: Sequence[str] | None = None,
    with_answers: bool = True,
) -> RetrievalProblem:
    """Builds the retrieval problem of two files. Modalities are numbered in the order given, by default by name.

    `with_answers=False` leaves the answers out. They then need not be among the documents.

    Raises:
      ValueError: if dimensions differ, an answer is not among the documents, or a modality is not one of those given.
    """
    check_same_space(queries, documents)
    names = tuple(modalities or sorted(set(documents.modality.tolist())))
    query_names = tuple(query_modalities or sorted(set(queries.modality.tolist())))
    return RetrievalProblem(
        queries.vectors,
        documents.vectors,
        numbered(queries.modality, query_names, "queries"),
        numbered(documents.modality, names, "documents"),
        query_names,
        names,
        excluded_rows(queries, documents),
        rows_of((queries.answers if with_answers else None) or ((),) * len(queries), documents, "answers"),
    )


def fit(problem: RetrievalProblem) -> ModalityStats:
    """Fits statistics of the pseudo-positives of a problem's queries."""
    p = problem
    kinds: dict[str, Any] = {"query_modality": p.query_modality, "query_modalities": p.query_modalities}
    return statistics.fit(p.queries, p.documents, p.modality, p.modalities, exclude=p.exclude, **kinds)


def fit_labelled(problem: RetrievalProblem) -> ModalityStats:
    """The labelled variant: fits statistics of the scores of the true pairs."""
    p = problem
    scores = labelled_scores(p.queries, p.documents, p.modality, len(p.modalities), p.answers)
    return statistics.update(nothing_seen(problem), scores, p.query_modality)


def cautions(problem: RetrievalProblem, stats: ModalityStats) -> list[str]:
    """Returns warnings about the use of these statistics on this problem.

    Raises:
      ValueError: if no query of a needed modality was fitted.
    """
    used = sorted(set(problem.query_modality.tolist()))
    counts = np.asarray(stats.count)
    for row in used:
        if not counts[row].any():
            raise ValueError(
                f"queries have the modality {problem.query_modalities[row]!r}, but no query of that modality was "
                "fitted; fit some"
            )
    pools = np.bincount(problem.modality, minlength=len(problem.modalities)).tolist()
    here = [i for i, size in enumerate(pools) if size]
    notes = [f"no document is of the modality {problem.modalities[i]}" for i, size in enumerate(pools) if not size]
    if len(here) == 1:
        notes.append(f"all documents are of the modality {problem.modalities[here[0]]}: cosines rank as z-scores do")
    fewest = int(counts[np.ix_(used, here)].min())
    if fewest < 2:
        notes.append(
            f"{fewest} fit queries give a modality no standard deviation: it takes that of the others, or only means "
            "are subtracted"
        )
    elif fewest < FEW_QUERIES:
        error = 1 / np.sqrt(fewest)
        notes.append(
            f"{fewest} fit queries are few: z-scores are uncertain by {error:.2f}; {FEW_QUERIES} or more are better"
        )
    for i in here:
        mean = float(np.asarray(stats.mean)[used, i].max())
        if mean > ITSELF:
            notes.append(
                f"the best {problem.modalities[i]} of a query has a mean cosine of {mean:.3f}: the queries seem to be "
                "among the documents; name them in `exclude`, or give both the same id"
            )
    for name, (then, now) in aged(stats, pools).items():
        if then and now:
            notes.append(
                f"the statistics are out of date: {name} was fitted on {then:,} documents and has {now:,}; fit again"
            )
    return notes


def candidate_scores(problem: RetrievalProblem) -> jax.Array:
    """Cosines float32 [q n]; -inf for excluded documents."""
    return hide(cosines(problem.queries, problem.documents), problem.exclude)


def z_scores(problem: RetrievalProblem, stats: ModalityStats, scores: jax.Array | None = None) -> jax.Array:
    """Standardized scores [q n] of a problem's documents."""
    scores = candidate_scores(problem) if scores is None else scores
    return statistics.standardize(scores, problem.modality, stats, problem.query_modality)


def nothing_seen(problem: RetrievalProblem) -> ModalityStats:
    """A problem's statistics before any query is seen."""
    pools = np.bincount(problem.modality, minlength=len(problem.modalities)).tolist()
    return statistics.empty(problem.modalities, pools, query_modalities=problem.query_modalities)


def wanted(problem: RetrievalProblem) -> np.ndarray:
    """Which modalities hold an answer to each query: bool [q m]."""
    found = problem.modality[np.maximum(problem.answers, 0)]
    kinds = np.arange(len(problem.modalities))
    return ((found[:, :, None] == kinds) & (problem.answers >= 0)[:, :, None]).any(axis=1)


def best_candidates(
    problem: RetrievalProblem,
    stats: ModalityStats,
    k: int,
    prior: Mapping[str, float] | None = None,
    bias: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, cosines and z-scores of each query's k best documents by z + prior of the modality; [q, k], best first.

    With the `bias` [n] of `fusion.query_bias`, the best documents are by z + prior - bias. If a query has fewer than k
    candidates, the remaining rows are -1.

    Raises:
      ValueError: if k is below 1, or the prior names a modality that no document has.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    numbered(np.array(list(prior or {})), problem.modalities, "prior")
    offset = np.array([(prior or {}).get(name, 0.0) for name in problem.modalities], np.float32)[problem.modality]
    found = []
    for block in problem.blocks():
        scores = candidate_scores(block)
        z = z_scores(block, stats, scores)
        best, rows = jax.lax.top_k(z + offset - (0 if bias is None else bias), min(k, z.shape[1]))
        taken = (jnp.take_along_axis(x, rows, axis=1) for x in (scores, z))
        found.append([np.asarray(x) for x in (jnp.where(jnp.isneginf(best), -1, rows), *taken)])
    of_all = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return of_all[0], of_all[1], of_all[2]
