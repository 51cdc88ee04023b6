"""Retrieval metrics on a score matrix and a boolean matrix of matches.

Every metric follows from the ranks of the positives, so each direction is ranked once. Ties are pessimistic: among
equal scores a negative ranks first, so a collapsed model (all scores equal) never looks good.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

RSUM_KS = (1, 5, 10)
_BLOCK_ENTRIES = 4_000_000  # rows are ranked in blocks of about this many scores: 32 MB of float64


class PositiveRanks(NamedTuple):
    """The ranks of all p positives, for the q' queries that have one.

    Attributes:
      query: int [p], index among the q' queries.
      rank: int [p], from 1.
      nth: int [p], place among the query's own positives, from 1.
      n_positives: int [q'].
    """

    query: np.ndarray
    rank: np.ndarray
    nth: np.ndarray
    n_positives: np.ndarray


def check_scores(scores: np.ndarray, other: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays [q, c], scores as float32 or float64. Raises ValueError for unequal shapes or NaN."""
    scores, other = np.asarray(scores), np.asarray(other)
    if scores.ndim != 2 or scores.shape != other.shape:
        raise ValueError(
            f"scores have shape {scores.shape} and {name} {other.shape}; both must be [queries, candidates]"
        )
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN; a ranking needs numbers")
    return scores, other


def check_positives(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `check_scores`; also raises ValueError unless `positives` is boolean with at least one True."""
    scores, positives = check_scores(scores, positives, "positives")
    if positives.dtype != bool:
        raise ValueError(f"positives have dtype {positives.dtype}, expected bool: threshold them first")
    if not positives.any():
        raise ValueError("no query has a positive, so there is nothing to average: check the labels")
    return scores, positives


def row_blocks(*matrices: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yields contiguous blocks of rows of matrices [q, c] of equal shape, to bound the memory."""
    n_rows, n_columns = matrices[0].shape
    step = max(1, _BLOCK_ENTRIES // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield [np.ascontiguousarray(m[start : start + step]) for m in matrices]


def rank_positives(scores: np.ndarray, positives: np.ndarray) -> PositiveRanks:
    """Ranks every positive among its query's candidates (1 = best), best positives first within a query.

    rank = number of negatives with a score at least as large + place among the query's positives. This is the
    pessimistic rule for ties. `scores` [q, c], `positives` bool [q, c].

    Raises ValueError for NaN scores, unequal shapes, or no positive.

    >>> rank_positives(np.array([[3.0, 2.0, 2.0, 1.0]]), np.array([[True, False, True, False]])).rank.tolist()
    [1, 3]
    """
    scores, positives = check_positives(scores, positives)
    n_positives = positives.sum(axis=1)
    negatives_above = np.concatenate([_negatives_above(*block) for block in row_blocks(scores, positives)])
    n_positives = n_positives[n_positives > 0]
    query = np.repeat(np.arange(len(n_positives)), n_positives)
    nth = np.arange(len(query)) - np.repeat(np.cumsum(n_positives) - n_positives, n_positives) + 1
    return PositiveRanks(query, negatives_above + nth, nth, n_positives)


def _negatives_above(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Counts the negatives that score at least as high as each positive; best positives first within a row."""
    n_negatives = (~positives).sum(axis=1)
    negatives = np.sort(np.where(positives, -np.inf, scores), axis=1)
    rows, columns = np.nonzero(positives)
    values = scores[rows, columns]
    order = np.lexsort((-values, rows))
    rows, values = rows[order], values[order]
    below = np.empty(len(rows), np.int64)
    bounds = np.searchsorted(rows, np.arange(len(scores) + 1))
    for row in np.unique(rows):  # one binary search per row; the heavier work is vectorised above
        here = slice(bounds[row], bounds[row + 1])
        below[here] = np.searchsorted(negatives[row], values[here], side="left")
    # Positives are -inf in the sorted row, so they count as "below" every value except -inf itself.
    return np.minimum(scores.shape[1] - below, n_negatives[rows])


def recall_at_k(scores: np.ndarray, positives: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Share of queries with at least one positive among their k best candidates, for every k in `ks`.

    R@K = mean_q [ best rank of a positive of q <= K ] (Karpathy and Fei-Fei 2015), in 0..1. `scores` [q, c], larger
    is better; `positives` bool [q, c]. The mean is over the queries that have a positive. Ties are pessimistic.
    Raises ValueError for NaN scores, unequal shapes, no positive, or k < 1.

    >>> recall_at_k(np.array([[3.0, 2.0], [1.0, 1.0]]), np.eye(2, dtype=bool), [1, 2])
    {1: 0.5, 2: 1.0}
    """
    return _recall(rank_positives(scores, positives), ks)


def _recall(ranks: PositiveRanks, ks: Sequence[int]) -> dict[int, float]:
    if any(k < 1 for k in ks):
        raise ValueError(f"ks are {list(ks)}; every k must be at least 1")
    best = ranks.rank[ranks.nth == 1]
    return {int(k): float(np.mean(best <= k)) for k in ks}


def _r_precision(ranks: PositiveRanks) -> float:
    return float(np.mean(_over_positives(np.ones(len(ranks.rank)), ranks)))


def map_at_r(scores: np.ndarray, positives: np.ndarray) -> float:
    """Mean average precision at R, R the query's number of positives.

    mAP@R = mean_q 1/R_q sum_{i <= R_q} P_q(i) rel_q(i), with P(i) the precision of the first i candidates (Musgrave
    et al. 2020). Unlike average precision it stops at R: a positive further down adds nothing. Shapes, reduction, ties
    and errors as in `recall_at_k`.

    >>> map_at_r(np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[False, True, True, False]]))
    0.25
    """
    return _map_at_r(rank_positives(scores, positives))


def average_precision_at_r(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The terms whose mean is `map_at_r`, one for each of the q' <= q queries that have a positive: float [q'].

    >>> average_precision_at_r(np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([[True, False], [False, True]])).tolist()
    [1.0, 0.0]
    """
    ranks = rank_positives(scores, positives)
    return _over_positives(ranks.nth / ranks.rank, ranks)


def _map_at_r(ranks: PositiveRanks) -> float:
    return float(np.mean(_over_positives(ranks.nth / ranks.rank, ranks)))


def _over_positives(gains: np.ndarray, ranks: PositiveRanks) -> np.ndarray:
    """Returns 1/R_q times the sum of the gains of the positives of rank R_q or better, for each query: [q']."""
    inside = ranks.rank <= ranks.n_positives[ranks.query]
    sums = np.bincount(ranks.query, weights=gains * inside, minlength=len(ranks.n_positives))
    return sums / ranks.n_positives


def chance(positives: np.ndarray) -> dict[str, float]:
    """What `retrieval_metrics` gives on average for a ranking at random, without R-Precision.

    A query with R positives among n candidates has one among the first k with probability 1 - C(n-R, k) / C(n, k). Of a
    random order, E[P(i) rel(i)] = R / (n i) (1 + (i-1) (R-1) / (n-1)).

    >>> found = chance(np.eye(20, dtype=bool))
    >>> round(found["i2t/R@5"], 6), round(found["rsum"], 6)
    (0.25, 160.0)
    """
    result: dict[str, float] = {}
    for direction, p in (("i2t", positives), ("t2i", positives.T)):
        n, counts = p.shape[1], p.sum(axis=1)
        counts, weights = np.unique(counts[counts > 0], return_counts=True)
        for k in RSUM_KS:
            missed = [np.prod([max(0, n - r - j) / (n - j) for j in range(min(k, n))]) for r in counts]
            result[f"{direction}/R@{k}"] = float(np.average(1 - np.array(missed), weights=weights))
        precision = [
            np.sum((1 + (i - 1) * (r - 1) / max(1, n - 1)) / i) / n for r in counts for i in [np.arange(1, r + 1)]
        ]
        result[f"{direction}/mAP@R"] = float(np.average(precision, weights=weights))
    result["rsum"] = 100 * sum(result[f"{d}/R@{k}"] for d in ("i2t", "t2i") for k in RSUM_KS)
    result["mAP@R"] = (result["i2t/mAP@R"] + result["t2i/mAP@R"]) / 2
    return result


def retrieval_metrics(scores: np.ndarray, positives: np.ndarray) -> dict[str, float]:
    """Every metric of this file in both directions, from one ranking each.

    `scores` [n, m] from images to texts, `positives` bool [n, m]: the labels, or the truth where it is known. Ties and
    errors as in `recall_at_k`. Keys:

    - "i2t/R@1", "i2t/R@5", "i2t/R@10", "i2t/mAP@R" (see `recall_at_k`, `map_at_r`), and the same with "t2i/".
    - "i2t/R-Precision", "t2i/R-Precision": mean_q 1/R_q sum_{i <= R_q} rel_q(i), the share of positives among the R
      best candidates (Musgrave et al. 2020, "A Metric Learning Reality Check").
    - "R-Precision", "mAP@R": means of the two directions.
    - "rsum": 100 times the sum of R@1, R@5 and R@10 in both directions, 0..600.

    >>> retrieval_metrics(np.eye(2), np.eye(2, dtype=bool))["rsum"]
    600.0
    """
    scores, positives = check_positives(scores, positives)
    result: dict[str, float] = {}
    for direction, s, p in (("i2t", scores, positives), ("t2i", scores.T, positives.T)):
        ranks = rank_positives(s, p)
        result |= {f"{direction}/R@{k}": value for k, value in _recall(ranks, RSUM_KS).items()}
        result |= {f"{direction}/R-Precision": _r_precision(ranks), f"{direction}/mAP@R": _map_at_r(ranks)}
    result["rsum"] = 100 * sum(result[f"{d}/R@{k}"] for d in ("i2t", "t2i") for k in RSUM_KS)
    for name in ("R-Precision", "mAP@R"):
        result[name] = (result[f"i2t/{name}"] + result[f"t2i/{name}"]) / 2
    return result
