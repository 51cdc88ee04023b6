"""Compares every way to rank texts and images together, on one problem, by one measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.metrics.retrieval import rank_positives
from vacsr_jax.search.standardize import fusion, statistics
from vacsr_jax.search.standardize.problem import (
    RetrievalProblem,
    candidate_scores,
    cautions,
    fit,
    fit_labelled,
    nothing_seen,
    wanted,
    z_scores,
)
from vacsr_jax.search.standardize.pseudo_positives import best_of_each, hide
from vacsr_jax.search.standardize.statistics import ModalityStats

NDCG_AT = 10

Match = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries [q d], documents [n d] -> scores [q n]
Table = dict[str, dict[str, dict[str, float]]]


# The methods.


class Fitted(NamedTuple):
    """What the methods learn from unlabelled queries and the documents.

    Attributes:
      stats: statistics of the cosines.
      centered, i0t: statistics of the cosines of embeddings that were centred as in GR-CLIP, and as in I0T-post.
      match: statistics of another model's scores; None without one.
      labelled: statistics of the scores of the queries' answers; None if a modality has fewer than two.
      bias: the bias of each document; see `fusion.query_bias`.
    """

    stats: ModalityStats
    centered: ModalityStats
    i0t: ModalityStats
    match: ModalityStats | None
    labelled: ModalityStats | None
    bias: jax.Array


def rankings(
    plain: RetrievalProblem, centered: RetrievalProblem, i0t: RetrievalProblem, fitted: Fitted, match: Match | None
) -> Iterator[tuple[str, jax.Array]]:
    """Yields every method's name and scores [q n], for a few queries in three forms; `fusion` describes each method."""
    kinds, count = plain.modality, len(plain.modalities)
    raw = candidate_scores(plain)
    z = z_scores(plain, fitted.stats, raw)
    yield "raw", raw
    yield "standardized", z
    yield "mean_only", z_scores(plain, statistics.mean_only(fitted.stats), raw)
    if fitted.labelled is not None:
        yield "labelled", z_scores(plain, fitted.labelled, raw)
    yield "inverted_softmax", z - fitted.bias
    yield "centered", candidate_scores(centered)
    yield "centered_standardized", z_scores(centered, fitted.centered)
    yield "i0t", candidate_scores(i0t)
    yield "i0t_standardized", z_scores(i0t, fitted.i0t)
    yield "interleave", fusion.interleave(raw, kinds, z)
    yield "rrf", fusion.rrf(raw, kinds)
    yield "dbsf", fusion.dbsf(raw, kinds, count)
    yield "per_query_z", fusion.dbsf(raw, kinds, count, depth=None)
    if match is not None and fitted.match is not None:
        scores = hide(jnp.asarray(match(plain.queries, plain.documents)), plain.exclude)
        yield "match", scores
        yield "match_standardized", z_scores(plain, fitted.match, scores)
    yield "oracle", fusion.oracle(raw, kinds, wanted(plain))


def centre_problem(problem: RetrievalProblem, query_mean: jax.Array, document_mean: jax.Array) -> RetrievalProblem:
    queries = fusion.center(problem.queries, problem.query_modality, query_mean)
    documents = fusion.center(problem.documents, problem.modality, document_mean)
    return dataclasses.replace(problem, queries=np.asarray(queries), documents=np.asarray(documents))


def centre_means(problem: RetrievalProblem) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the means of queries and of documents that GR-CLIP subtracts, and those that I0T-post subtracts."""
    p = problem
    of_queries = fusion.means(p.queries, p.query_modality, len(p.query_modalities))
    of_documents = fusion.means(p.documents, p.modality, len(p.modalities))
    shared = [of_documents[p.modalities.index(name)] if name in p.modalities else of_queries[i]
              for i, name in enumerate(p.query_modalities)]  # fmt: skip
    return (of_queries, of_documents), (jnp.stack(shared), of_documents)


def fit_all(plain: RetrievalProblem, centered: RetrievalProblem, i0t: RetrievalProblem, match: Match | None) -> Fitted:
    stats, labelled = fit(plain), fit_labelled(plain)
    enough = bool((np.asarray(labelled.count) > 1).all())
    bias = fusion.query_bias(z_scores(block, stats) for block in plain.blocks())
    return Fitted(
        stats, fit(centered), fit(i0t), fit_match(plain, match) if match else None, labelled if enough else None, bias
    )


def fit_match(problem: RetrievalProblem, match: Match) -> ModalityStats:
    """Fits statistics of another model's scores: of the best score of each modality, as for cosines."""
    stats = nothing_seen(problem)
    for block in problem.blocks():
        scores = hide(jnp.asarray(match(block.queries, block.documents)), block.exclude)
        best = best_of_each(scores, block.modality, len(block.modalities))
        stats = statistics.update(stats, best, block.query_modality)
    return stats


# The measure.


def compare(
    problem: RetrievalProblem, ks: Sequence[int], *, fit_on: RetrievalProblem | None = None, match: Match | None = None
) -> Table:
    """Every method's quality: {method: {"recall@20": {"all": x, answer modality: y, "macro": z}, ..., "ndcg@10": ...}}.

    Recall@k is the share of a query's answers among its k best documents, averaged over queries. Queries whose answers
    have several modalities form their own group ("image and text"), and macro is the mean over groups. A tie counts
    against the method. `oracle` is the upper bound of methods that keep the order within a modality.

    Args:
      fit_on: queries over the same documents to fit everything on; by default the queries of the problem. Answers are
        not read, except by `labelled`.
      match: another model's scores of pairs, such as VACSR's logits, for the rows "match" and "match_standardized".

    Raises:
      ValueError: if a query has no answer or excludes its answer, if a k is below 1, or if a modality has the name of a
        column.
    """
    check_comparable(problem, ks)
    source = problem if fit_on is None else fit_on
    of_centered, of_i0t = centre_means(source)

    def in_three_forms(p: RetrievalProblem) -> tuple[RetrievalProblem, RetrievalProblem, RetrievalProblem]:
        return p, centre_problem(p, *of_centered), centre_problem(p, *of_i0t)

    forms = in_three_forms(source)
    fitted = fit_all(*forms, match)
    cautions(problem, fitted.stats)
    if fit_on is not None:
        forms = in_three_forms(problem)
    ranks: dict[str, list[list[np.ndarray]]] = {}
    blocks, count = zip(*(form.blocks() for form in forms), strict=True), -(-len(problem.queries) // problem.block_size)
    for plain, centered, i0t in tqdm(blocks, total=count, unit=" blocks of queries", delay=2, disable=None):
        positives = _positives(plain)
        for name, scores in rankings(plain, centered, i0t, fitted, match):
            found = rank_positives(np.asarray(scores), positives)
            ranks.setdefault(name, []).append(np.split(found.rank, np.flatnonzero(np.diff(found.query)) + 1))
    groups = answer_groups(problem)
    return {name: summarize([r for block in blocks for r in block], groups, ks) for name, blocks in ranks.items()}


def _positives(problem: RetrievalProblem) -> np.ndarray:
    positives = np.zeros((len(problem.queries), len(problem.documents) + 1), bool)
    np.put_along_axis(positives, np.where(problem.answers < 0, len(problem.documents), problem.answers), True, axis=1)
    return positives[:, :-1]


def answer_groups(problem: RetrievalProblem) -> np.ndarray:
    """The modality of each query's answers, or several joined by "and": str [q]."""
    return np.array([" and ".join(np.array(problem.modalities)[row]) for row in wanted(problem)])


def summarize(ranks: Sequence[np.ndarray], groups: np.ndarray, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Recall@k and nDCG@10 (binary gains) from the ranks of each query's answers, best first, by group of queries."""
    per_query = {f"recall@{k}": np.array([np.mean(r <= k) for r in ranks]) for k in ks}
    discount = 1 / np.log2(np.arange(2, NDCG_AT + 2))
    per_query[f"ndcg@{NDCG_AT}"] = np.array(
        [discount[r[r <= NDCG_AT] - 1].sum() / discount[: len(r)].sum() for r in ranks]
    )
    table = {}
    for name, values in per_query.items():
        of_group = {group: float(values[groups == group].mean()) for group in sorted(set(groups.tolist()))}
        table[name] = {"all": float(values.mean()), **of_group, "macro": float(np.mean(list(of_group.values())))}
    return table


def check_comparable(problem: RetrievalProblem, ks: Sequence[int]) -> None:
    if not ks or any(k < 1 for k in ks):
        raise ValueError(f"k: got {list(ks)}, expected numbers of at least 1")
    reserved = {"all", "macro"} & set(problem.modalities)
    if reserved:
        raise ValueError(f"modality {reserved.pop()!r} is also the name of a column of the table; rename the modality")
    without = int((problem.answers < 0).all(axis=1).sum())
    if without:
        raise ValueError(f"answers: {without} of {len(problem.answers)} queries have none; leave them out")
    hidden = (problem.answers[:, :, None] == problem.exclude[:, None, :]) & (problem.answers >= 0)[:, :, None]
    if hidden.any():
        raise ValueError(
            f"{int(hidden.any(axis=(1, 2)).sum())} queries exclude their own answer; take it out of exclude"
        )


def table_rows(table: Table) -> tuple[list[list], list[str]]:
    """Rows and columns; a row has the last recall by group, recall over all queries for each k, and nDCG, by method."""
    *recalls, ndcg = next(iter(table.values()))
    groups = [name for name in next(iter(table.values()))[recalls[-1]] if name not in ("all", "macro")]
    columns = [(recalls[-1], name) for name in (*groups, "macro")] if len(groups) > 1 else []
    columns += [(name, "all") for name in (*recalls, ndcg)]
    rows = [[method, *(of[name][group] for name, group in columns)] for method, of in table.items()]
    return rows, ["method", *(name if group == "all" else f"{name} {group}" for name, group in columns)]
