"""Calibration by image-text pairs alone: labels say which image a text was written for, not what it is true of.

A label implies a match, so where the share of matches that are labelled is a probability itself, a match is at least as
probable as a label (positive-unlabelled learning; Elkan and Noto 2008).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vacsr_jax.calibration.calibration import PAIRS, Calibration

MOST_IMAGES, MOST_TEXTS = 1000, 2000  # of a sample; more change little and take longer
LOW, HIGH = 1e-12, 1 - 1e-7  # of a label's probability
# Of a model with propensities of its own, which starts near its answer:
START, PRIOR = np.array([1.0, 0.0, 0.0, -7.0]), 2.0  # mean and standard deviation before there are data
BOUNDS = [(np.exp(-2), np.exp(2)), (-20, 20), (-20, 20), (-12, 0)]
ALL = 50_000  # up to so many pairs, all are used
SHARE = 10  # of more: the tenth with the largest label odds, and a tenth of the others, each with ten times the weight


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


def negative_log_likelihood(
    theta: np.ndarray, a: np.ndarray, h: np.ndarray | float, y: np.ndarray, weights: np.ndarray, n: int
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood of labels y, and its gradient in theta = (alpha, beta, delta, logit nu).

      P(label) = (1 - nu) sigmoid(alpha a + beta) sigmoid(h + delta) + nu / n, of pairs of n images.

    A match is labelled with the second probability: a text that is true of several images is labelled with one of them.
    A share nu of the labels is wrong, at any of the n images.
    """
    alpha, beta, delta, noise = theta
    q, e, nu = sigmoid(alpha * a + beta), sigmoid(h + delta), sigmoid(noise)
    p = np.clip((1 - nu) * q * e + nu / n, LOW, HIGH)
    value = -np.sum(weights * np.where(y, np.log(p), np.log1p(-p)))
    slope = weights * np.where(y, -1 / p, 1 / (1 - p))  # of the loss in p
    right = slope * (1 - nu) * q * e
    in_q, in_e = right * (1 - q), right * (1 - e)
    in_nu = np.sum(slope * (1 / n - q * e)) * nu * (1 - nu)
    return float(value), np.array([np.sum(in_q * a), np.sum(in_q), np.sum(in_e), in_nu])


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

    centre, spread = float(scores[~labels].mean()), float(scores[~labels].std()) or 1.0
    z, gap = (scores - centre) / spread, float((scores[labels].mean() - centre) / spread)
    # Most pairs are far from a match: those are summed by their histogram, which changes the value by less than 1e-4.
    counts, edges = np.histogram(z[~labels], np.linspace(z.min(), z.max() + 1e-9, 4096))
    points = np.concatenate([z[labels], (edges[1:] + edges[:-1]) / 2])
    weights = np.concatenate([np.ones(labels.sum()), counts])
    data = (points, 0.0, np.arange(len(points)) < labels.sum(), weights, len(scores))
    starts = [(slope, -0.7 * slope * max(gap, 1) - 2, share, -3) for slope in (2.0, 5.0) for share in (-1.0, 2.0)]
    found = [minimize(negative_log_likelihood, start, data, jac=True, method="L-BFGS-B") for start in starts]
    best = min(found, key=lambda one: one.fun).x
    back = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])
    slope, intercept = (float(x) for x in back @ best[:2])
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


def fit_match(match_logit: np.ndarray, propensity: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(alpha, beta), for which sigmoid(alpha a + beta) is the match probability of a model with propensities.

    Such a model's label odds are the product of a match probability and a propensity without a bound: one can be halved
    if the other is doubled, and the likelihood of the training loss does not tell them apart. That of
    `negative_log_likelihood` does. `match_logit` a, `propensity` h = g + f + c and `labels` bool are [n, m].
    """
    from scipy.optimize import minimize

    a, h = np.asarray(match_logit, np.float64).ravel(), np.asarray(propensity, np.float64).ravel()
    y, weights = np.asarray(labels, bool).ravel(), np.ones(a.shape)
    if len(a) > ALL:
        odds = h - np.logaddexp(0, -a)
        kept = y | (odds >= np.quantile(odds, 1 - 1 / SHARE))
        others = np.flatnonzero(~kept)
        weights[others] = len(others) / len(others[::SHARE])
        chosen = np.concatenate([np.flatnonzero(kept), others[::SHARE]])
        a, h, y, weights = a[chosen], h[chosen], y[chosen], weights[chosen]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative_log_likelihood(theta, a, h, y, weights, len(labels))
        away = (theta - START) / PRIOR
        return value + 0.5 * away @ away, gradient + away / PRIOR

    alpha, beta, *_ = minimize(loss, START, jac=True, method="L-BFGS-B", bounds=BOUNDS).x
    return float(alpha), float(beta)
