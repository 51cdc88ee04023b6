"""What the label of a pair says about the pair, and what no label says, under the likelihood of a propensity model.

A propensity model gives every pair a match logit a and a propensity h. Among n images, a pair is labelled with
  p = (1 - nu) q e + nu / n,   q = sigmoid(alpha a + beta),   e = sigmoid(h + delta):
it is a match (q) that got the label (e), or the label is one of the share nu that is wrong, which is equally likely at
each of the n images (`losses.label_likelihood`; Elkan and Noto 2008). alpha, beta, delta and nu are fitted to the
labels that are judged, in blocks of images with their own captions. In a set of N images a caption that is true of a
share of them has (N - 1) / (n - 1) times as many other matches as among n, and the odds that a match gets the label are
lower by this factor: delta becomes delta - log((N - 1) / (n - 1)).

Bayes' rule gives what an audit asks for. A pair without a label is a match with
  p_match = P(match | not labelled) = q (1 - (1 - nu) e - nu / n) / (1 - p),
  logit p_match = alpha a + beta + log(1 - (1 - nu) e / (1 - nu / n)).
A caption has one label. If it is right, it is at image i with the probability r_i = q_i e_i / sum_k q_k e_k, and the
label came from the floor with
  p_wrong = P(floor | labelled at i) = (nu / n) / ((1 - nu) r_i + nu / n).
The sum is 1 on average. Where it is less than `SUPPORT`, no image fits the caption, and the sum counts as `SUPPORT`:
the best of many bad fits is no right label. nu is then fitted once more, to all labels with these r.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from vacsr_jax.losses.label_likelihood import PRIOR, fit_labels, label_slopes

LIKELY = 0.05  # this share of unlabelled pairs, with the largest label odds, is kept, and of the others:
EVERY = 50  # every so many, with this weight
START = np.array([0.0, 0.0, 0.0, -2.0])  # theta before there are labels: an audit expects some to be wrong
MOST_NOISE = 0.95
SUPPORT = 0.1  # the least sum of q e over all images that a caption is taken to have


class Sample(NamedTuple):
    """Pairs that a label model was fitted to, flat; those that say little are thinned out and weigh more."""

    a: np.ndarray
    h: np.ndarray
    labelled: np.ndarray
    weights: np.ndarray
    image: np.ndarray  # of the caption's label, over all blocks


@dataclasses.dataclass(frozen=True)
class LabelModel:
    """A fit, for a set of n images.

    Attributes:
      theta: log alpha, beta, delta, logit nu.
      covariance: [4, 4] of theta: the sandwich over images, since captions of an image are not independent.
      n: the number of images.
      sample: the pairs that it was fitted to.
    """

    theta: np.ndarray
    covariance: np.ndarray
    n: int
    sample: Sample

    def among(self, n: int) -> LabelModel:
        """The same fit for a set of n images."""
        shift = np.array([0.0, 0.0, np.log((n - 1) / (self.n - 1)), 0.0])
        return dataclasses.replace(self, theta=self.theta - shift, n=n)

    @property
    def noise_rate(self) -> float:
        """nu, the share of wrong labels."""
        return float(expit(self.theta[3]))

    @property
    def noise_error(self) -> float:
        """The standard error of the log odds of nu."""
        return float(np.sqrt(self.covariance[3, 3]))

    def missing_error(self) -> float:
        """The standard error of the logarithm of the expected number of unlabelled matches (delta method)."""
        free = ~self.sample.labelled
        a, h, weights = (x[free] for x in (self.sample.a, self.sample.h, self.sample.weights))

        def expected(theta: np.ndarray) -> float:
            return np.log(weights @ expit(match_logit(theta, self.n, a, h)))

        steps = 1e-4 * np.eye(4)
        slope = np.array([(expected(self.theta + s) - expected(self.theta - s)) / 2e-4 for s in steps])
        return float(np.sqrt(slope @ self.covariance @ slope))


def right_logit(theta: np.ndarray, a: np.ndarray, h: np.ndarray) -> np.ndarray:
    """log q + log e, the log probability that a match is there and got the label."""
    log_alpha, beta, delta, _ = theta
    return log_expit(np.exp(log_alpha) * a + beta) + log_expit(h + delta)


def match_logit(theta: np.ndarray, n: int, a: np.ndarray, h: np.ndarray) -> np.ndarray:
    """logit p_match of unlabelled pairs among n images."""
    log_alpha, beta, delta, noise = theta
    nu = expit(noise)
    return np.exp(log_alpha) * a + beta + np.log1p(-(1 - nu) / (1 - nu / n) * expit(h + delta))


def label_share(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """log r of labels: `right_logit` of the label's image, less the logarithm `total` of its sum over all images."""
    return np.minimum(right - np.maximum(total, np.log(SUPPORT)), 0)


def wrong_logit(noise: float, n: int, share: np.ndarray) -> np.ndarray:
    """logit p_wrong of labels with this `label_share` among n images; `noise` is the log odds of nu."""
    return noise - np.log(n) - share


def fit_noise(share: np.ndarray, n: int, image: np.ndarray) -> tuple[float, float]:
    """The likeliest log odds of nu for labels with these `label_share` [m] among n images, and their standard error.

    Before there are labels, they are normal around START[3] with the standard deviation PRIOR. The error is the
    sandwich over images; `image` [m] is that of each label.
    """

    def slopes(t: float) -> tuple[np.ndarray, np.ndarray]:
        """The first and second derivatives of -log((1 - nu) r + nu / n) in t."""
        p, nu = expit(wrong_logit(t, n, share)), expit(t)
        return nu - p, nu * (1 - nu) - p * (1 - p)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        away = (x[0] - START[3]) / PRIOR
        value = -np.sum(np.logaddexp(log_expit(x[0]) - np.log(n), log_expit(-x[0]) + share))
        return value + 0.5 * away**2, np.array([slopes(x[0])[0].sum() + away / PRIOR])

    most = np.log(MOST_NOISE / (1 - MOST_NOISE))
    t = float(minimize(loss, [START[3]], jac=True, method="L-BFGS-B", bounds=[(-12, most)]).x[0])
    first, second = slopes(t)
    _, number = np.unique(image, return_inverse=True)
    spread = np.sum(np.bincount(number, first) ** 2) + 1 / PRIOR**2
    return t, float(np.sqrt(spread) / max(second.sum() + 1 / PRIOR**2, 1 / PRIOR**2))


def fit(blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> LabelModel:
    """The likeliest label model of blocks of equally many images with their own captions.

    A block is (a [n, m], h [n, m], labels bool [n, m], image [m]): `image` tells the images of the labels apart, over
    all blocks.
    """
    n = len(blocks[0][0])
    sample = Sample(*(np.concatenate(x) for x in zip(*(_thinned(*block) for block in blocks), strict=True)))
    a, h, y, weights, group = sample
    theta = fit_labels(a, h, y, weights, n, start=START, most_noise=MOST_NOISE)
    prior = np.eye(4) / PRIOR**2
    hessian = np.empty((4, 4))
    for i, step in enumerate(1e-4 * np.eye(4)):
        ahead, behind = (label_slopes(theta + s, a, h, y, weights, n)[1].sum(axis=1) for s in (step, -step))
        hessian[i] = (ahead - behind) / 2e-4
    slopes = label_slopes(theta, a, h, y, weights, n)[1]
    _, number = np.unique(group, return_inverse=True)
    per_image = np.stack([np.bincount(number, slope) for slope in slopes])
    curvature = (hessian + hessian.T) / 2 + prior
    values, vectors = np.linalg.eigh(curvature)
    inverse = (vectors / np.maximum(values, 1 / PRIOR**2)) @ vectors.T
    covariance = inverse @ (per_image @ per_image.T + prior) @ inverse
    return LabelModel(theta, covariance, n, sample)


def _thinned(a, h, labels, image):
    """The pairs of a block that say most, flat: a, h, label, weight, and the image of the caption's label."""
    group = np.broadcast_to(image, a.shape).ravel()
    a, h, y = (np.asarray(x, t).ravel() for x, t in ((a, np.float64), (h, np.float64), (labels, bool)))
    odds = log_expit(a) + h
    kept = y | (odds >= np.quantile(odds, 1 - LIKELY))
    others = np.flatnonzero(~kept)[::EVERY]
    chosen = np.concatenate([np.flatnonzero(kept), others])
    share = (len(a) - kept.sum()) / max(len(others), 1)
    weights = np.concatenate([np.ones(kept.sum()), np.full(len(others), share)])
    return a[chosen], h[chosen], y[chosen], weights, group[chosen]
