"""The numbers behind the figures of uncertainty: quality in bins of queries, and distributions by class of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vacsr_jax.metrics.retrieval import average_precision_at_r
from vacsr_jax.metrics.uncertainty import (
    Distribution,
    UncertaintyBins,
    distribution,
    top1_uncertainty,
    topk_uncertainty,
    uncertainty_bins,
)
from vacsr_jax.pair.base import PairScores

BINS = 10
TOP_K = 10  # the number of best pairs whose mean uncertainty is plotted against mAP@R
SAMPLE = 2_000_000  # the largest number of pairs of a class that a distribution is computed from

Curves = dict[str, dict[str, UncertaintyBins]]  # measure of quality -> i2t, t2i -> its bins


def quality_curves(scores: PairScores, labels: np.ndarray, relevance: np.ndarray | None) -> Curves:
    """R@1 against the uncertainty of the best pair, and mAP@R against the mean of the TOP_K best (Wei et al. 2026).

    These are the curves of their Figures 3 and 6. R@1 is against the labels, bool [n, m]; mAP@R is against the truth if
    it is known. Empty for a model without uncertainty, or for fewer queries than BINS.
    """
    curves: Curves = {"R@1": {}, "mAP@R": {}}
    for name, s, p, u in _directions(scores.by_label(), scores.uncertainty, labels):
        if p.any(axis=1).sum() >= BINS:
            curves["R@1"][name] = uncertainty_bins(*top1_uncertainty(s, p, u), BINS)
    ranking, positives = (scores.by_label(), labels) if relevance is None else (scores.by_match(), relevance == 1)
    for name, s, p, u in _directions(ranking, scores.uncertainty, positives):
        asked = p.any(axis=1)
        if asked.sum() >= BINS:
            of_best = topk_uncertainty(s, u, min(TOP_K, s.shape[1]))[asked]
            curves["mAP@R"][name] = uncertainty_bins(of_best, average_precision_at_r(s, p), BINS)
    return {measure: lines for measure, lines in curves.items() if lines}


def eccv_curves(scores: PairScores, precision: dict[str, tuple[np.ndarray, np.ndarray]]) -> Curves:
    """ECCV Caption's mAP@R against the mean uncertainty of the TOP_K best; `precision` comes from `eccv_precision`."""
    lines = {}
    for name, s, _, u in _directions(scores.by_match(), scores.uncertainty, scores.logit):
        queries, found = precision[name]
        if len(queries) >= BINS:
            of_best = topk_uncertainty(s[queries], u[queries], min(TOP_K, s.shape[1]))
            lines[name] = uncertainty_bins(of_best, found, BINS)
    return {"ECCV Caption mAP@R": lines} if lines else {}


def correlations(curves: Curves) -> dict[str, float]:
    """The rank correlation over the bins of each curve, under names like `i2t/uncertainty-R@1`; -1 is best."""
    return {
        f"{name}/uncertainty-{measure}": b.spearman for measure, lines in curves.items() for name, b in lines.items()
    }


def _directions(ranking: np.ndarray, uncertainty: np.ndarray | None, positives: np.ndarray) -> Iterator[tuple]:
    if uncertainty is not None:
        yield "i2t", ranking, positives, uncertainty
        yield "t2i", ranking.T, positives.T, uncertainty.T


def pair_classes(values: np.ndarray, labels: np.ndarray, relevance: np.ndarray | None) -> dict[str, np.ndarray]:
    """The values [n, m] in each class of pairs, by the labels and, if known, by the truth; at most SAMPLE per class."""
    if relevance is None:
        masks = {"labelled": labels, "unlabelled": ~labels}
    else:
        matches = relevance == 1
        masks = {
            "true matches (labelled)": labels,
            "false negatives (true, unlabelled)": matches & ~labels,
            "true negatives": ~matches & ~labels,
        }
    return {name: _sample(values[mask]) for name, mask in masks.items()}


def _sample(values: np.ndarray) -> np.ndarray:
    if len(values) <= SAMPLE:
        return values
    return values[np.random.default_rng(0).integers(len(values), size=SAMPLE)]


def distributions(
    scores: PairScores, labels: np.ndarray, relevance: np.ndarray | None
) -> dict[str, dict[str, Distribution]]:
    """Statistics of scores and uncertainties: "score" or "uncertainty" -> class of pairs -> its distribution."""
    values = {"score": scores.by_match(), "uncertainty": scores.uncertainty}
    return {
        name: {kind: distribution(x) for kind, x in pair_classes(v, labels, relevance).items() if len(x)}
        for name, v in values.items()
        if v is not None
    }
