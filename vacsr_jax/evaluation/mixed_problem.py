"""Queries over a bank of several modalities, as arrays: their scores, their statistics, their best candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.data.embeddings import Embeddings, check_same_space, excluded_rows, numbered, rows_of
from vacsr_jax.search import standardization
from vacsr_jax.search.pseudo_positives import cosines, labelled_scores
from vacsr_jax.search.standardization import ModalityStats, aged

BLOCK_SCORES = 2**23  # scores of a block of queries: 32 MB of float32, held about ten times
FEW_QUERIES = 200  # fewer shift z-scores by several hundredths
ITSELF = 0.99  # a mean best cosine above this is that of queries with themselves


@dataclasses.dataclass(frozen=True)
class Problem:
    """Queries and a bank as numbers: unit vectors, places of modalities among the names, rows of the bank (-1: none).

    Attributes:
      queries, bank: float32 [q d], [n d].
      query_modality, modality: int [q], [n].
      query_modalities, modalities: the names.
      exclude, answers: int [q e], [q a].
    """

    queries: np.ndarray
    bank: np.ndarray
    query_modality: np.ndarray
    modality: np.ndarray
    query_modalities: tuple[str, ...]
    modalities: tuple[str, ...]
    exclude: np.ndarray
    answers: np.ndarray

    @property
    def block_size(self) -> int:
        return max(1, BLOCK_SCORES // len(self.bank))

    def blocks(self) -> Iterator[Problem]:
        """The problem, few queries at a time."""
        for start in range(0, len(self.queries), self.block_size):
            part = slice(start, start + self.block_size)
            per_query = ("queries", "query_modality", "exclude", "answers")
            yield dataclasses.replace(self, **{name: getattr(self, name)[part] for name in per_query})


def make_problem(
    queries: Embeddings,
    bank: Embeddings,
    *,
    modalities: Sequence[str] | None = None,
    query_modalities: Sequence[str] | None = None,
    with_answers: bool = True,
) -> Problem:
    """The problem that two files pose; modalities are numbered in the order of those given, else of their names.

    `with_answers=False` leaves the answers out, which then need not be in the bank.

    Raises:
      ValueError: if dimensions differ, an answer is not in the bank, or a modality is none of those given.
    """
    check_same_space(queries, bank)
    names = tuple(modalities or sorted(set(bank.modality.tolist())))
    query_names = tuple(query_modalities or sorted(set(queries.modality.tolist())))
    return Problem(
        queries.vectors,
        bank.vectors,
        numbered(queries.modality, query_names, "queries"),
        numbered(bank.modality, names, "bank"),
        query_names,
        names,
        excluded_rows(queries, bank),
        rows_of((queries.answers if with_answers else None) or ((),) * len(queries), bank, "answers"),
    )


def fit(problem: Problem) -> ModalityStats:
    """Statistics of the pseudo-positives of a problem's queries."""
    p = problem
    kinds = {"query_modality": p.query_modality, "query_modalities": p.query_modalities}
    return standardization.fit(p.queries, p.bank, p.modality, p.modalities, exclude=p.exclude, **kinds)


def fit_labelled(problem: Problem) -> ModalityStats:
    """The labelled variant: statistics of the scores of the true pairs."""
    p = problem
    scores = labelled_scores(p.queries, p.bank, p.modality, len(p.modalities), p.answers)
    return standardization.update(nothing_seen(problem), scores, p.query_modality)


def cautions(problem: Problem, stats: ModalityStats) -> list[str]:
    """What somebody who uses these statistics on this problem should know.

    Raises:
      ValueError: if the queries are of a modality that none of the fit queries was.
    """
    used = sorted(set(problem.query_modality.tolist()))
    counts = np.asarray(stats.count)
    for row in used:
        if not counts[row].any():
            raise ValueError(
                f"queries are of the modality {problem.query_modalities[row]!r}, of which no query was fitted"
            )
    pools = np.bincount(problem.modality, minlength=len(problem.modalities)).tolist()
    here = [i for i, size in enumerate(pools) if size]
    notes = [f"the bank has no {problem.modalities[i]}" for i, size in enumerate(pools) if not size]
    if len(here) == 1:
        notes.append(f"the bank is all {problem.modalities[here[0]]}: the ranking is that of the cosines")
    fewest = int(counts[np.ix_(used, here)].min())
    if fewest < 2:
        notes.append(
            f"{fewest} fit queries tell no spread of a modality: it takes the others', or only means are subtracted"
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
                f"the best {problem.modalities[i]} of a query has a mean cosine of {mean:.3f}: the queries seem to "
                "stand in the bank; name them in `exclude`, or give both the same id"
            )
    for name, (then, now) in aged(stats, pools).items():
        if then and now:
            notes.append(f"the statistics have aged: {name} was fitted on {then:,} and is now {now:,}; fit them again")
    return notes


def candidate_scores(problem: Problem) -> jax.Array:
    """Cosines float32 [q n]; -inf where a candidate is excluded."""
    return hide(cosines(problem.queries, problem.bank), problem.exclude)


@jax.jit
def hide(scores: jax.Array, exclude: np.ndarray) -> jax.Array:
    """The scores [q n] with rows `exclude` [q e] of the bank at -inf."""
    rows = jnp.where(exclude < 0, scores.shape[1], exclude)
    return scores.at[jnp.arange(len(scores))[:, None], rows].set(-jnp.inf, mode="drop")


def z_scores(problem: Problem, stats: ModalityStats, scores: jax.Array | None = None) -> jax.Array:
    """Standardized scores [q n] of a problem's candidates."""
    scores = candidate_scores(problem) if scores is None else scores
    return standardization.standardize(scores, problem.modality, stats, problem.query_modality)


def nothing_seen(problem: Problem) -> ModalityStats:
    """Statistics of a problem before any query was seen."""
    pools = np.bincount(problem.modality, minlength=len(problem.modalities)).tolist()
    return standardization.empty(problem.modalities, pools, query_modalities=problem.query_modalities)


def wanted(problem: Problem) -> np.ndarray:
    """Which modalities hold an answer of each query: bool [q m]."""
    found = problem.modality[np.maximum(problem.answers, 0)]
    kinds = np.arange(len(problem.modalities))
    return ((found[:, :, None] == kinds) & (problem.answers >= 0)[:, :, None]).any(axis=1)


def best_candidates(
    problem: Problem,
    stats: ModalityStats,
    k: int,
    prior: Mapping[str, float] | None = None,
    bias: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the bank, cosines and z-scores of each query's k best by z + prior of the modality; [q k], best first.

    With the `bias` [n] of `fusion.query_bias`, by z + prior - bias. Where a query has fewer than k candidates the rest
    of its rows are -1.

    Raises:
      ValueError: if k is below 1 or the prior names a modality that the bank has none of.
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
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
