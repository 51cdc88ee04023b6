"""Turns the match logit of a propensity model into one whose sigmoid is a probability, from held-out labels alone.

The label's odds are the product of a match probability and a propensity, and one can be halved if the other is doubled.
The likelihood of the training loss does not tell them apart, since its propensity has no bound. But a label implies a
match (Elkan and Noto 2008): where the propensity is a probability itself, a match is at least as probable as a label.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

PRIOR = 2.0  # standard deviation of each parameter before there are data: without it, few labels give no answer
START = np.array([0.0, 0.0, 0.0, -7.0])
BOUNDS = [(-2, 2), (-20, 20), (-20, 20), (-12, 0)]
ALL = 50_000  # up to so many pairs, all are used
SHARE = 10  # of more: the tenth with the largest label odds, and a tenth of the others, each with ten times the weight


def fit_calibration(match_logit: np.ndarray, propensity: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns (alpha, beta), for which sigmoid(alpha a + beta) is the probability of a match.

    They maximize the likelihood of the labels, with probability p of the label of a pair,
      p = (1 - nu) sigmoid(alpha a + beta) sigmoid(h + delta) + nu / n,
    over alpha > 0, beta, delta and nu. `match_logit` a, `propensity` h = g + f + c and `labels` bool are [n, m].
    """
    a, h = np.asarray(match_logit, np.float64).ravel(), np.asarray(propensity, np.float64).ravel()
    y, weights = np.asarray(labels, bool).ravel(), np.ones(a.shape)
    if len(a) > ALL:
        odds = log_expit(a) + h
        kept = y | (odds >= np.quantile(odds, 1 - 1 / SHARE))
        others = np.flatnonzero(~kept)
        weights[others] = len(others) / len(others[::SHARE])
        chosen = np.concatenate([np.flatnonzero(kept), others[::SHARE]])
        a, h, y, weights = a[chosen], h[chosen], y[chosen], weights[chosen]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative_log_likelihood(theta, a, h, y, weights, len(labels))
        away = (theta - START) / PRIOR
        return value + 0.5 * away @ away, gradient + away / PRIOR

    found = minimize(loss, START, jac=True, method="L-BFGS-B", bounds=BOUNDS).x
    return float(np.exp(found[0])), float(found[1])


def negative_log_likelihood(
    theta: np.ndarray, a: np.ndarray, h: np.ndarray, y: np.ndarray, weights: np.ndarray, n: int
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood of labels y, and its gradient in theta = (log alpha, beta, delta, logit nu)."""
    log_alpha, beta, delta, noise = theta
    alpha, nu = np.exp(log_alpha), expit(noise)
    q, e = expit(alpha * a + beta), expit(h + delta)
    p = np.clip((1 - nu) * q * e + nu / n, 1e-12, 1 - 1e-7)
    value = -np.sum(weights * np.where(y, np.log(p), np.log1p(-p)))
    slope = weights * np.where(y, -1 / p, 1 / (1 - p))  # of the loss in p
    right = slope * (1 - nu) * q * e
    in_q, in_e = right * (1 - q), right * (1 - e)
    in_nu = np.sum(slope * (1 / n - q * e)) * nu * (1 - nu)
    return value, np.array([alpha * np.sum(in_q * a), np.sum(in_q), np.sum(in_e), in_nu])
