"""Calibration by image-text pairs alone: labels say which image a text was written for, not what it is true of.

A label implies a match, so where the share of matches that are labelled is a probability itself, a match is at least as
probable as a label (positive-unlabelled learning; Elkan and Noto 2008).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vacsr_jax.calibration.calibration import PAIRS, Calibration

MOST_IMAGES, MOST_TEXTS = 1000, 2000  # of a sample; more change little and take longer


class Fit(NamedTuple):
    """P(match) = sigmoid(slope s + intercept), the share of matches that are labelled, and that of wrong labels."""

    slope: float
    intercept: float
    propensity: float
    noise_rate: float

    def label_probability(self, scores: np.ndarray) -> np.ndarray:
        """P(label) of every pair [n, m] of such data: the part of the model that pairs can be compared with."""
        match = sigmoid(self.slope * scores + self.intercept)
        return (1 - self.noise_rate) * self.propensity * match + self.noise_rate / len(scores)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def fit_pairs(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """The likeliest slope, intercept, propensity and noise rate of the labels (bool [n, m]), given scores [n, m].

    That other pairs are not labelled is not taken for their being no match: the propensity says how often a match is
    labelled, and is found where more of the labelled pairs no longer come with a higher score. If nothing in the scores
    tells unlabelled matches from others, it is near 1, and the probability is that of the label.

    Raises:
      ValueError: if the shapes differ, a score is not finite, or fewer than two texts have a label.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.shape != labels.shape or labels.dtype != bool or scores.ndim != 2:
        raise ValueError(f"labels: got {labels.dtype} {list(labels.shape)}, expected bool {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError("labels: a score is not finite")
    if labels.sum() < 2 or len(scores) < 2:
        raise ValueError(f"labels: {int(labels.sum())} pairs of {len(scores)} images, expected at least 2 of each")
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(scores))[:MOST_IMAGES])
    scores, labels = scores[rows], labels[rows]
    texts = np.flatnonzero(labels.any(axis=0))
    texts = np.sort(rng.permutation(texts)[:MOST_TEXTS])
    scores, labels = scores[:, texts], labels[:, texts]
    fit, covariance = maximize(scores, labels)
    match = sigmoid(fit.slope * scores + fit.intercept)
    return Calibration(
        fit.slope,
        fit.intercept,
        covariance,
        PAIRS,
        scores.size,
        int(labels.sum()),
        float(match.mean()),
        fit.noise_rate,
        fit.propensity,
    )


def maximize(scores: np.ndarray, labels: np.ndarray) -> tuple[Fit, tuple[float, float, float]]:
    """The likeliest fit, and the covariance of slope and intercept (inverse of the numeric Hessian)."""
    from scipy.optimize import minimize  # late: takes as long to import as JAX

    from vacsr_jax.losses.label_likelihood import negative_log_likelihood

    centre, spread = float(scores[~labels].mean()), float(scores[~labels].std()) or 1.0
    z, gap = (scores - centre) / spread, float((scores[labels].mean() - centre) / spread)
    # Most pairs are far from a match: those are summed by their histogram, which changes the value by less than 1e-4.
    counts, edges = np.histogram(z[~labels], np.linspace(z.min(), z.max() + 1e-9, 4096))
    points = np.concatenate([z[labels], (edges[1:] + edges[:-1]) / 2])
    weights = np.concatenate([np.ones(labels.sum()), counts])
    labelled = np.arange(len(points)) < labels.sum()
    data = (points, np.zeros(len(points)), labelled, weights, len(scores))
    starts = [
        (np.log(slope), -0.7 * slope * max(gap, 1) - 2, share, -3) for slope in (2.0, 5.0) for share in (-1.0, 2.0)
    ]
    found = [minimize(negative_log_likelihood, start, data, jac=True, method="L-BFGS-B") for start in starts]
    best = min(found, key=lambda one: one.fun).x
    alpha = float(np.exp(best[0]))
    back = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])
    slope, intercept = (float(x) for x in back @ (alpha, best[1]))
    back = back @ np.diag([alpha, 1.0])  # the fit is over the slope's logarithm
    c = back @ _covariance(lambda x: negative_log_likelihood(x, *data)[1], best) @ back.T
    fit = Fit(slope, intercept, float(sigmoid(best[2])), float(sigmoid(best[3])))
    return fit, (float(c[0, 0]), float(c[0, 1]), float(c[1, 1]))


def _covariance(gradient, x: np.ndarray) -> np.ndarray:
    """Covariance [2, 2] of the first two parameters at a minimum; directions without curvature count as known."""
    h = 1e-4 * np.eye(len(x))
    hessian = np.array([gradient(x + step) - gradient(x - step) for step in h]) / 2e-4
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    inverse = np.where(values > 1e-3, 1 / np.maximum(values, 1e-3), 0)
    return ((vectors * inverse) @ vectors.T)[:2, :2]
