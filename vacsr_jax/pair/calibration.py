"""Turns the match logit of a propensity model into one whose sigmoid is a probability, from held-out labels alone.

The label's odds are the product of a match probability and a propensity, and one can be halved if the other is doubled.
The likelihood of the training loss does not tell them apart, since its propensity has no bound. But a label implies a
match (Elkan and Noto 2008): where the propensity is a probability itself, a match is at least as probable as a label.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_expit

from vacsr_jax.losses.label_likelihood import fit_labels

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
    found = fit_labels(a, h, y, weights, len(labels))
    return float(np.exp(found[0])), float(found[1])
