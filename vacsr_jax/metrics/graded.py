"""Metrics against graded relevance: how far a caption is true of an image, not only whether it was written for it."""

import numpy as np

from vacsr_jax.metrics.retrieval import check_scores, row_blocks


def check_relevance(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `check_scores`; also raises ValueError unless the relevance lies in [0, 1]."""
    scores, relevance = check_scores(scores, relevance, "relevance")
    if not ((relevance >= 0) & (relevance <= 1)).all():  # also refuses NaN
        raise ValueError(f"relevance lies in [{relevance.min()}, {relevance.max()}], expected [0, 1]: rescale it first")
    return scores, relevance.astype(np.float64, copy=False)


def ndcg(scores: np.ndarray, relevance: np.ndarray, k: int | None = None) -> float:
    """Normalised discounted cumulative gain of the first k candidates (of all if k is None).

    nDCG = mean_q DCG_q / ideal DCG_q, DCG = sum_{i <= k} rel(i) / log2(i + 1) (Järvelin and Kekäläinen 2002). The gain
    is *linear* in the relevance, not 2^rel - 1, because the relevance here is a fraction, not a grade. `scores` and
    `relevance` [q, c], relevance in [0, 1]. The mean is over queries with any relevance above 0. Ties are pessimistic:
    the less relevant candidate comes first. Raises ValueError for NaN scores, unequal shapes, relevance outside [0, 1]
    or all 0, or k < 1.

    >>> ndcg(np.array([[2.0, 1.0]]), np.array([[1.0, 0.0]])), ndcg(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    (1.0, 0.6309297535714575)
    """
    scores, relevance = check_relevance(scores, relevance)
    if k is not None and k < 1:
        raise ValueError(f"k is {k}, expected at least 1, or None for all candidates")
    k = scores.shape[1] if k is None else min(k, scores.shape[1])
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained, ideal = [], []
    for block_scores, block_relevance in row_blocks(scores, relevance):
        ranked = np.take_along_axis(block_relevance, _pessimistic_order(block_scores, block_relevance), axis=1)
        gained.append(ranked[:, :k] @ discount)
        ideal.append(np.sort(block_relevance, axis=1)[:, ::-1][:, :k] @ discount)
    gain, best = np.concatenate(gained), np.concatenate(ideal)
    if not best.any():
        raise ValueError("no query has a relevant candidate, so there is nothing to average: check the relevance")
    return float(np.mean(gain[best > 0] / best[best > 0]))


def _pessimistic_order(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Sorts the candidates of each row by score, best first; among equal scores the least relevant comes first."""
    order = np.argsort(-scores, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    tied = (ranked[:, 1:] == ranked[:, :-1]).any(axis=1)
    if tied.any():  # sorting by two keys is several times slower, so only the rows that need it
        order[tied] = np.lexsort((relevance[tied], -scores[tied]), axis=1)
    return order


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks the values of each row of [q, c], from 1 for the smallest; equal values share their mean rank.

    >>> average_ranks(np.array([[5.0, 7.0, 5.0]])).tolist()
    [[1.5, 3.0, 1.5]]
    """
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(starts)  # every row starts a group, so no group spans two rows
    size = np.diff(first, append=values.size)
    column = first % values.shape[1]
    shared = np.repeat(column + (size + 1) / 2, size).reshape(values.shape)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, shared, axis=1)
    return ranks


def spearman(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Mean over queries of the rank correlation between scores and graded relevance.

    rho = Pearson correlation of the average ranks (Spearman 1904; equal values share their mean rank). `scores` and
    `relevance` [q, c], relevance in [0, 1]. Queries of constant relevance are left out. A query of constant *scores*
    counts as 0. Raises ValueError for NaN scores, unequal shapes, or relevance outside [0, 1] or constant for every
    query.

    >>> round(spearman(np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 0.5, 0.5]])), 4)
    0.866
    """
    scores, relevance = check_relevance(scores, relevance)
    varies = (relevance != relevance[:, :1]).any(axis=1)
    if not varies.any():
        raise ValueError("relevance is constant for every query, so there is no correlation: check the relevance")
    blocks = row_blocks(scores, relevance)
    rho = np.concatenate([row_correlation(average_ranks(s), average_ranks(r)) for s, r in blocks])
    return float(np.mean(rho[varies]))


def row_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of the rows of x and y, [q, c] -> [q]; 0 if a row is constant."""
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=scale > 0)
