"""Evaluates an uncertainty or a score: unlabelled matches against true negatives, and its relation to R@1."""

from typing import NamedTuple

import numpy as np

from vacsr_jax.metrics.graded import average_ranks, row_correlation
from vacsr_jax.metrics.retrieval import check_positives, check_scores, row_blocks


def auroc(values: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive's value exceeds a negative's; ties count 1/2.

    AUROC = mean over positives of the share of negatives with a smaller value (Mann and Whitney 1947). `values` [n],
    `labels` bool [n]. Constant values give 1/2. Raises ValueError for NaN values, unequal shapes, or a missing class.

    >>> auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True]))
    0.875
    """
    values, labels = _check_labelled_values(values, labels)
    if labels.all() or not labels.any():
        raise ValueError(f"all {len(labels)} labels are {labels[0]}; AUROC needs both classes: check the labels")
    return _area(values[labels], values[~labels])


def _area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Mean over the positives of the share of negatives below them; ties count 1/2."""
    negative, positive = np.sort(negative), np.sort(positive)  # sorted queries make the search much faster
    below = np.searchsorted(negative, positive, "left")
    not_above = np.searchsorted(negative, positive, "right")
    return float(np.mean(below + not_above) / (2 * len(negative)))


def auroc_within(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Mean AUROC within groups (here: captions), over the groups that have both classes.

    A pooled AUROC can be high because the values tell which *captions* are general. This one only rewards values that
    tell which pairs *of one caption* match. `values`, `labels` (bool) and `groups` (any integers) are [n]. Ties count
    1/2. Raises ValueError for NaN values, unequal shapes, or no group with both classes.

    >>> labels = np.array([False, True, False, True])
    >>> auroc_within(np.array([1.0, 2.0, 9.0, 8.0]), labels, np.array([0, 0, 1, 1]))
    0.5
    """
    values, labels = _check_labelled_values(values, labels)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups have shape {groups.shape} and labels {labels.shape}, expected equal shapes")
    order = np.argsort(groups, kind="stable")  # linear time if the groups are already in order
    values, labels, groups = values[order], labels[order], groups[order]
    bounds = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    parts = zip(np.split(values, bounds), np.split(labels, bounds), strict=True)
    areas = [_area(v[y], v[~y]) for v, y in parts if y.any() and not y.all()]
    if not areas:
        raise ValueError("no group has both classes, so the AUROC is undefined: check the labels")
    return float(np.mean(areas))


def _check_labelled_values(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values), np.asarray(labels)
    if values.ndim != 1 or len(values) == 0 or values.shape != labels.shape:
        raise ValueError(f"values {values.shape} and labels {labels.shape}: expected vectors of equal length > 0")
    if labels.dtype != bool:
        raise ValueError(f"labels have dtype {labels.dtype}, expected bool: threshold them first")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} values are NaN; a ranking needs numbers")
    return values, labels


def best_unlabelled(scores: np.ndarray, labelled: np.ndarray, top: int = 20) -> np.ndarray:
    """Marks each caption's `top` best-scored unlabelled images: bool [n, m].

    `scores` [n, m], `labelled` bool [n, m]. Of equal scores the lower image index wins. A caption with fewer unlabelled
    images gives all of them. Raises ValueError for NaN scores, unequal shapes, non-boolean labels, no label at all, or
    top < 1.

    >>> best_unlabelled(np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [False]]), top=1).tolist()
    [[False], [True], [False]]
    """
    scores, labelled = check_positives(scores, labelled)
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1 pair per caption")
    n_images = len(scores)
    unlabelled = np.where(labelled, -np.inf, scores)
    place = max(n_images - top, 0)
    worst_chosen = np.partition(unlabelled, place, axis=0)[place]
    better, equal = unlabelled > worst_chosen, unlabelled == worst_chosen
    room = min(top, n_images) - better.sum(axis=0)
    return (better | (equal & (np.cumsum(equal, axis=0) <= room))) & ~labelled


def false_negative_auroc(
    values: np.ndarray, scores: np.ndarray, labelled: np.ndarray, matches: np.ndarray, top: int = 20
) -> dict[str, float]:
    """Measures how well `values` tell unlabelled true matches (false negatives) from true negatives.

    All arguments are [n images, m captions]. `values` are evaluated: the score, or plus or minus an uncertainty; a
    larger value should mean a match. `scores` only select each caption's `top` best unlabelled pairs. `labelled` and
    `matches` are bool: the labels and the truth. Keys: "top/pooled" and "top/within" (mean over captions, see
    `auroc_within`) on the selected pairs, "all/pooled" and "all/within" on every unlabelled pair. Ties count 1/2.
    Raises ValueError for NaN, unequal shapes, non-boolean matrices, or a missing class.

    >>> scores, labelled = np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [False]])
    >>> false_negative_auroc(scores, scores, labelled, np.array([[True], [True], [False]]))["top/within"]
    1.0
    """
    values, matches = check_positives(values, matches)
    chosen = best_unlabelled(scores, labelled, top)
    if chosen.shape != values.shape:
        raise ValueError(f"values have shape {values.shape} and scores {chosen.shape}; both must be [images, captions]")
    # With captions as rows, the pairs of a caption are contiguous and in order.
    by_caption = (np.ascontiguousarray(m.T) for m in (values, matches, chosen, ~np.asarray(labelled)))
    values, matches, chosen, unlabelled = by_caption
    result = {}
    for name, pairs in (("top", chosen), ("all", unlabelled)):
        value, match, caption = values[pairs], matches[pairs], np.nonzero(pairs)[0]
        result[f"{name}/pooled"] = auroc(value, match)
        result[f"{name}/within"] = auroc_within(value, match, caption)
    return result


def top1_uncertainty(
    scores: np.ndarray, positives: np.ndarray, uncertainty: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the uncertainty of each query's best-scored pair; returns (uncertainty [q'], hit bool [q']).

    `scores`, `positives` (bool) and `uncertainty` are [q, c]. `hit` tells whether the best pair is a positive, so its
    mean is R@1. Queries without a positive are left out (q' <= q). Ties are pessimistic: among equal best scores a
    negative is taken first, then the lower index. Raises ValueError for NaN, unequal shapes, or no positive.

    >>> top1_uncertainty(np.array([[2.0, 1.0]]), np.array([[True, False]]), np.array([[0.1, 0.7]]))
    (array([0.1]), array([ True]))
    """
    scores, positives = check_positives(scores, positives)
    uncertainty, _ = check_scores(uncertainty, scores, "scores")
    is_best = scores == scores.max(axis=1, keepdims=True)
    wrong = is_best & ~positives
    choice = np.where(wrong.any(axis=1), wrong.argmax(axis=1), is_best.argmax(axis=1))[:, None]
    kept = positives.any(axis=1)
    at_choice, hit = (np.take_along_axis(m, choice, axis=1)[kept, 0] for m in (uncertainty, positives))
    return at_choice, hit


def topk_uncertainty(scores: np.ndarray, uncertainty: np.ndarray, k: int) -> np.ndarray:
    """Mean uncertainty of each query's k best-scored pairs: float [q] (Wei et al. 2026, Figure 6).

    `scores` and `uncertainty` are [q, c]. Pairs tied at the k-th best score share the remaining places, so their order
    does not matter. Raises ValueError for NaN, unequal shapes, or k outside 1..c.

    >>> topk_uncertainty(np.array([[3.0, 2.0, 2.0, 1.0]]), np.array([[0.1, 0.2, 0.4, 0.9]]), k=2).round(6).tolist()
    [0.2]
    """
    scores, uncertainty = check_scores(scores, uncertainty, "uncertainty")
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to {scores.shape[1]}, the number of candidates")
    means = []
    for s, u in row_blocks(scores, uncertainty):
        place = s.shape[1] - k
        worst_chosen = np.partition(s, place, axis=1)[:, place, None]
        better, equal = s > worst_chosen, s == worst_chosen
        of_better = np.sum(u, axis=1, where=better, dtype=np.float64)
        of_equal = np.mean(u, axis=1, where=equal, dtype=np.float64)
        means.append((of_better + (k - better.sum(axis=1)) * of_equal) / k)
    return np.concatenate(means)


class UncertaintyBins(NamedTuple):
    """Queries in bins of increasing uncertainty: three vectors [bins], and two correlations over the bins.

    `quality` is the mean retrieval quality of the queries: R@1 or mAP@R.
    """

    uncertainty: np.ndarray
    quality: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count
    pearson: float
    spearman: float


def uncertainty_bins(uncertainty: np.ndarray, quality: np.ndarray, bins: int = 10) -> UncertaintyBins:
    """Mean uncertainty and retrieval quality in bins of equally many queries (Wei et al. 2026, Figures 3 and 6).

    `uncertainty` [q]; `quality` [q], a hit (bool, see `top1_uncertainty`) or a number such as
    `average_precision_at_r`. Counts differ by at most 1. Queries of equal uncertainty share their mean quality, so the
    order of the input does not matter and a constant uncertainty gives a flat curve. A correlation is 0 if one side is
    constant. A good uncertainty gives a negative one. Raises ValueError for NaN, unequal shapes, or fewer queries than
    bins.

    >>> uncertainty_bins(np.array([0.1, 0.9, 0.2, 0.8]), np.array([True, False, True, True]), bins=2).pearson
    -1.0
    """
    uncertainty, quality = np.asarray(uncertainty), np.asarray(quality)
    if uncertainty.ndim != 1 or uncertainty.shape != quality.shape:
        raise ValueError(f"uncertainty {uncertainty.shape} and quality {quality.shape}: expected equally long vectors")
    if np.isnan(uncertainty).any() or np.isnan(quality).any():
        raise ValueError("an uncertainty or a quality is NaN; expected numbers")
    if not 2 <= bins <= len(quality):
        raise ValueError(f"bins is {bins}, expected 2 to {len(quality)}, the number of queries")
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, weights=quality) / size)[group]
    parts = np.array_split(np.argsort(uncertainty), bins)
    mean_u = np.array([_mean(uncertainty[part]) for part in parts])
    mean_q = np.array([_mean(shared[part]) for part in parts])
    pearson = row_correlation(mean_u[None], mean_q[None])[0]
    rank = row_correlation(average_ranks(mean_u[None]), average_ranks(mean_q[None]))[0]
    return UncertaintyBins(mean_u, mean_q, np.array([len(p) for p in parts]), float(pearson), float(rank))


def _mean(x: np.ndarray) -> float:
    """Mean that is exact for equal numbers, so that rounding cannot create a correlation between constants."""
    return float(x[0] + np.mean(x - x[0], dtype=np.float64))


class Distribution(NamedTuple):
    """Summary of a set of values: count, mean, standard deviation, and the 5, 50 and 95 % quantiles."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    mean: float
    std: float
    low: float
    median: float
    high: float


def distribution(values: np.ndarray) -> Distribution:
    """Summarizes the scores or uncertainties of one class of pairs. Infinite values are left out.

    Raises ValueError for NaN, or if no value is left.

    >>> distribution(np.array([1.0, 2.0, 3.0])).median
    2.0
    """
    values = np.asarray(values, np.float64).ravel()
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} values are NaN")
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("got no finite value, so there is nothing to summarize")
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return Distribution(len(values), float(values.mean()), float(values.std()), float(low), float(median), float(high))
