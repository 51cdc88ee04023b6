"""Calibration by image-text pairs alone: labels say which image a text was written for, not what it is true of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vacsr_jax.calibration.calibration import PAIRS, Calibration

MOST_IMAGES, MOST_TEXTS = 1000, 2000  # of a sample; more change little and take longer
LOW, HIGH = 1e-12, 1 - 1e-12


class Fit(NamedTuple):
    """P(match) = sigmoid(slope s + intercept), the share of matches that are labelled, and that of wrong labels."""

    slope: float
    intercept: float
    propensity: float
    noise_rate: float

    def label_probability(self, scores: np.ndarray) -> np.ndarray:
        """P(label) of every pair [n, m] of such data: the part of the model that pairs can be compared with."""
        return label_probability(scores, *self)


def label_probability(scores, slope, intercept, propensity, noise_rate) -> np.ndarray:
    """P(label_ij) = (1 - nu) e sigmoid(a s_ij + b) + nu / n, of n images and m texts.

    A match is labelled with the probability e: a text that is true of several images is labelled with one of them
    (positive-unlabelled learning; Elkan and Noto 2008). A share nu of the labels is wrong, at any of the n images.
    """
    match = np.exp(-np.logaddexp(0, -(slope * scores + intercept)))
    return (1 - noise_rate) * propensity * match + noise_rate / len(scores)


def fit_pairs(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """The likeliest a, b, e and nu of the labels (bool [n, m]) of all pairs, given their scores [n, m].

    That other pairs are not labelled is not taken for their being no match: e says how often a match is labelled, and
    is found where more of the labelled pairs no longer come with a higher score. If nothing in the scores tells
    unlabelled matches from others, e is near 1, and the probability is that of the label.

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
    match = 1 / (1 + np.exp(-np.clip(fit.slope * scores + fit.intercept, -700, 700)))
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

    centre, spread = float(scores[~labels].mean()), float(scores[~labels].std()) or 1.0
    z, gap = (scores - centre) / spread, float((scores[labels].mean() - centre) / spread)

    def unpack(theta: np.ndarray) -> tuple[float, float, float, float]:
        return (
            theta[0],
            theta[1],
            float(np.exp(-np.logaddexp(0, -theta[2]))),
            float(np.exp(-np.logaddexp(0, -theta[3]))),
        )

    # Most pairs are far from a match: those are summed by their histogram, which changes the value by less than 1e-4.
    edges = np.linspace(z.min(), z.max() + 1e-9, 4096)
    others = np.histogram(z[~labels], edges)[0].astype(float)
    middle, mine, n = (edges[1:] + edges[:-1]) / 2, z[labels], len(scores)

    def loss(theta: np.ndarray) -> float:
        slope, intercept, propensity, noise = unpack(theta)

        def q(x: np.ndarray) -> np.ndarray:
            match = np.exp(-np.logaddexp(0, -(slope * x + intercept)))
            return np.clip((1 - noise) * propensity * match + noise / n, LOW, HIGH)

        return -float(np.log(q(mine)).sum() + others @ np.log1p(-q(middle)))

    best = None
    for slope in (2.0, 5.0):
        for share in (-1.0, 2.0):
            start = np.array([slope, -0.7 * slope * max(gap, 1.0) - 2, share, -3.0])
            options = {"maxiter": 2000, "xatol": 1e-4, "fatol": 1e-6, "adaptive": True}
            found = minimize(loss, start, method="Nelder-Mead", options=options)
            best = found if best is None or found.fun < best.fun else best
    assert best is not None
    slope, intercept, propensity, noise = unpack(best.x)
    covariance = _covariance(loss, best.x)
    back = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])
    a, b = back @ np.array([slope, intercept])
    c = back @ covariance @ back.T
    return Fit(float(a), float(b), propensity, noise), (float(c[0, 0]), float(c[0, 1]), float(c[1, 1]))


def _covariance(loss, x: np.ndarray) -> np.ndarray:
    """Covariance [2, 2] of the first two parameters at a minimum; directions without curvature count as known."""
    n, h = len(x), 1e-2
    hessian = np.empty((n, n))
    steps = h * np.eye(n)
    for i in range(n):
        for j in range(n):
            signs = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
            hessian[i, j] = sum(sign * loss(x + p * steps[i] + q * steps[j]) for p, q, sign in signs) / (4 * h * h)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    inverse = np.where(values > 1e-3, 1 / np.maximum(values, 1e-3), 0)
    return ((vectors * inverse) @ vectors.T)[:2, :2]
