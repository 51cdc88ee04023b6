"""The likelihood of labels of which some are wrong and many matches have none, in float64 on the host, and its maximum.

p = (1 - nu) q e + nu / n,  q = sigmoid(alpha a + beta),  e = sigmoid(h + delta)
is the probability that a pair of n images is labelled: it matches and the match got the label, or the label is one of
the share nu that is wrong, which is equally likely at each image.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

PRIOR = 2.0  # standard deviation of each parameter before there are data: without it, few labels give no answer
START = np.array([0.0, 0.0, 0.0, -7.0])
BOUNDS = [(-2, 2), (-20, 20), (-20, 20), (-12, 0)]


def fit_labels(
    a: np.ndarray,
    h: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    n: int,
    *,
    start: np.ndarray = START,
    most_noise: float = 0.5,
) -> np.ndarray:
    """The likeliest theta = (log alpha, beta, delta, logit nu) of labels y among n images; all [pairs] but n.

    Before there are data, theta is normal around `start` with the standard deviation PRIOR. nu <= `most_noise`.
    """
    bounds = [*BOUNDS[:3], (BOUNDS[3][0], float(logit(most_noise)))]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative_log_likelihood(theta, a, h, y, weights, n)
        away = (theta - start) / PRIOR
        return value + 0.5 * away @ away, gradient + away / PRIOR

    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x


def negative_log_likelihood(
    theta: np.ndarray, a: np.ndarray, h: np.ndarray, y: np.ndarray, weights: np.ndarray, n: int
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood of labels y, and its gradient in theta = (log alpha, beta, delta, logit nu)."""
    value, slopes = label_slopes(theta, a, h, y, weights, n)
    return value, slopes.sum(axis=1)


def label_slopes(
    theta: np.ndarray, a: np.ndarray, h: np.ndarray, y: np.ndarray, weights: np.ndarray, n: int
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood of labels y, and its gradient in theta from each pair, [4, pairs]."""
    log_alpha, beta, delta, noise = theta
    alpha, nu = np.exp(log_alpha), expit(noise)
    q, e = expit(alpha * a + beta), expit(h + delta)
    p = np.clip((1 - nu) * q * e + nu / n, 1e-12, 1 - 1e-7)
    value = -np.sum(weights * np.where(y, np.log(p), np.log1p(-p)))
    slope = weights * np.where(y, -1 / p, 1 / (1 - p))  # of the loss in p
    right = slope * (1 - nu) * q * e
    in_q, in_e = right * (1 - q), right * (1 - e)
    in_nu = slope * (1 / n - q * e) * nu * (1 - nu)
    return value, np.stack([in_q * alpha * a, in_q, in_e, in_nu])
