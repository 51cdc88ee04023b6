"""Judging mixed search: every way of putting texts and images into one ranking, on one problem, by one measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.evaluation.mixed_problem import (
    Problem,
    candidate_scores,
    cautions,
    fit,
    fit_labelled,
    hide,
    nothing_seen,
    wanted,
    z_scores,
)
from vacsr_jax.evaluation.retrieval import score_pairs
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.metrics.retrieval import rank_positives
from vacsr_jax.search import fusion, standardization
from vacsr_jax.search.standardization import ModalityStats

NDCG_AT = 10

Match = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries [q d], bank [n d] -> scores [q n]
Table = dict[str, dict[str, dict[str, float]]]


# The methods.


class Fitted(NamedTuple):
    """What the methods learn from unlabelled queries and the bank.

    Attributes:
      stats, centered, i0t, match: of the cosines, of those of centred embeddings, of another model's scores (or None).
      labelled: from the answers of the queries; None where some modality has fewer than two.
      bias: of each candidate, see `fusion.query_bias`.
    """

    stats: ModalityStats
    centered: ModalityStats
    i0t: ModalityStats
    match: ModalityStats | None
    labelled: ModalityStats | None
    bias: jax.Array


def rankings(
    plain: Problem, centered: Problem, i0t: Problem, fitted: Fitted, match: Match | None
) -> Iterator[tuple[str, jax.Array]]:
    """Every method's name and scores [q n], for a few queries in three forms; see `search.fusion` for each."""
    kinds, count = plain.modality, len(plain.modalities)
    raw = candidate_scores(plain)
    z = z_scores(plain, fitted.stats, raw)
    yield "raw", raw
    yield "standardized", z
    yield "mean_only", z_scores(plain, standardization.mean_only(fitted.stats), raw)
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
    if match is not None:
        scores = hide(jnp.asarray(match(plain.queries, plain.bank)), plain.exclude)
        yield "match", scores
        yield "match_standardized", z_scores(plain, fitted.match, scores)
    yield "oracle", fusion.oracle(raw, kinds, wanted(plain))


def centre_problem(problem: Problem, query_mean: jax.Array, bank_mean: jax.Array) -> Problem:
    queries = fusion.center(problem.queries, problem.query_modality, query_mean)
    bank = fusion.center(problem.bank, problem.modality, bank_mean)
    return dataclasses.replace(problem, queries=np.asarray(queries), bank=np.asarray(bank))


def centre_means(problem: Problem) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The means of queries and of bank that GR-CLIP subtracts, and those that I0T-post does."""
    p = problem
    of_queries = fusion.means(p.queries, p.query_modality, len(p.query_modalities))
    of_bank = fusion.means(p.bank, p.modality, len(p.modalities))
    shared = [of_bank[p.modalities.index(name)] if name in p.modalities else of_queries[i]
              for i, name in enumerate(p.query_modalities)]  # fmt: skip
    return (of_queries, of_bank), (jnp.stack(shared), of_bank)


def fit_all(plain: Problem, centered: Problem, i0t: Problem, match: Match | None) -> Fitted:
    stats, labelled = fit(plain), fit_labelled(plain)
    enough = bool((np.asarray(labelled.count) > 1).all())
    bias = fusion.query_bias(z_scores(block, stats) for block in plain.blocks())
    return Fitted(
        stats, fit(centered), fit(i0t), fit_match(plain, match) if match else None, labelled if enough else None, bias
    )


def match_by(model: ImageTextModel, params) -> Match:
    """A trained model's own logit as the common scale: a pair of any two embeddings is scored as image and text are.

    Beyond the papers. Its probability of a match is sigmoid(logit), so both rank alike; pairs of two texts were never
    trained.

    Raises:
      ValueError: if unit vectors, which is what the files hold, are not enough for the model.
    """

    def match(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        got, expected = documents.shape[1], model.embedding_dim
        if got != expected:
            raise ValueError(f"embeddings have {got} dimensions and the model's {expected}; it did not make them")
        items = (jax.device_get(model.pair.from_unit(jnp.asarray(x))) for x in (queries, documents))
        return score_pairs(model, params, *items).by_match()

    model.pair.from_unit(jnp.ones((1, model.embedding_dim)))  # a model that cannot says so before any work
    return match


def fit_match(problem: Problem, match: Match) -> ModalityStats:
    """Statistics of another model's scores: the best of each modality, as for cosines."""
    stats, kinds = nothing_seen(problem), range(len(problem.modalities))
    for block in problem.blocks():
        scores = hide(jnp.asarray(match(block.queries, block.bank)), block.exclude)
        best = [jnp.max(jnp.where(block.modality == kind, scores, -jnp.inf), axis=1) for kind in kinds]
        stats = standardization.update(stats, jnp.stack(best, axis=1), block.query_modality)
    return stats


# The measure.


def compare(problem: Problem, ks: Sequence[int], *, fit_on: Problem | None = None, match: Match | None = None) -> Table:
    """Every method judged: {method: {"recall@20": {"all": x, answer modality: y, "macro": z}, ..., "ndcg@10": {...}}}.

    Recall@k is the share of a query's answers among its k best candidates, a mean over queries; queries whose answers
    are of several modalities form a group of their own ("image and text"); macro is the mean of the groups. Ties are
    pessimistic. `oracle` is the bound of methods that keep the order inside a modality.

    Args:
      fit_on: queries over the same bank that everything is fitted on; default: the judged ones, without their answers
        (only `labelled` reads answers).
      match: another model's scores of pairs, such as VACSR's logits: rows "match" and "match_standardized".

    Raises:
      ValueError: if a query has no answer or has its answer excluded, a k is below 1, or a modality is named as a
        column.
    """
    check_comparable(problem, ks)
    source = problem if fit_on is None else fit_on
    forms = [source, *(centre_problem(source, *means) for means in centre_means(source))]
    fitted = fit_all(*forms, match)
    cautions(problem, fitted.stats)
    if fit_on is not None:
        forms = [problem, *(centre_problem(problem, *means) for means in centre_means(source))]
    ranks: dict[str, list[np.ndarray]] = {}
    blocks, count = zip(*(form.blocks() for form in forms), strict=True), -(-len(problem.queries) // problem.block_size)
    for plain, *others in tqdm(blocks, total=count, unit=" blocks of queries", delay=2, disable=None):
        positives = _positives(plain)
        for name, scores in rankings(plain, *others, fitted, match):
            found = rank_positives(np.asarray(scores), positives)
            ranks.setdefault(name, []).append(np.split(found.rank, np.flatnonzero(np.diff(found.query)) + 1))
    groups = answer_groups(problem)
    return {name: summarize([r for block in blocks for r in block], groups, ks) for name, blocks in ranks.items()}


def _positives(problem: Problem) -> np.ndarray:
    positives = np.zeros((len(problem.queries), len(problem.bank) + 1), bool)
    np.put_along_axis(positives, np.where(problem.answers < 0, len(problem.bank), problem.answers), True, axis=1)
    return positives[:, :-1]


def answer_groups(problem: Problem) -> np.ndarray:
    """The modality of each query's answers, several joined by "and": str [q]."""
    return np.array([" and ".join(np.array(problem.modalities)[row]) for row in wanted(problem)])


def summarize(ranks: Sequence[np.ndarray], groups: np.ndarray, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Recall@k and nDCG@10 (binary gains) of the ranks of each query's answers, best first, by group of queries."""
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


def check_comparable(problem: Problem, ks: Sequence[int]) -> None:
    if not ks or any(k < 1 for k in ks):
        raise ValueError(f"k: got {list(ks)}, expected numbers of at least 1")
    reserved = {"all", "macro"} & set(problem.modalities)
    if reserved:
        raise ValueError(f"modality {reserved.pop()!r} is the name of a column of the table; rename it")
    without = int((problem.answers < 0).all(axis=1).sum())
    if without:
        raise ValueError(f"answers: {without} of {len(problem.answers)} queries have none; leave such queries out")
    hidden = (problem.answers[:, :, None] == problem.exclude[:, None, :]) & (problem.answers >= 0)[:, :, None]
    if hidden.any():
        raise ValueError(f"{int(hidden.any(axis=(1, 2)).sum())} queries exclude their own answer")


def table_rows(table: Table) -> tuple[list[list], list[str]]:
    """For printing, a row a method: the last recall by group, then recall over all for every k, and nDCG."""
    *recalls, ndcg = next(iter(table.values()))
    groups = [name for name in next(iter(table.values()))[recalls[-1]] if name not in ("all", "macro")]
    columns = [(recalls[-1], name) for name in (*groups, "macro")] if len(groups) > 1 else []
    columns += [(name, "all") for name in (*recalls, ndcg)]
    rows = [[method, *(of[name][group] for name, group in columns)] for method, of in table.items()]
    return rows, ["method", *(name if group == "all" else f"{name} {group}" for name, group in columns)]
