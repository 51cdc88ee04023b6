"""Text entropy's two numbers, the scale and the weight, from validation pairs; and what it does to a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from vacsr_jax.metrics.retrieval import RSUM_KS, recall_at_k

SCALES = (1.0, 1000.0)  # between these a scale is looked for; CLIP's is 100
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)


def fit_scale(cosines: np.ndarray, positives: np.ndarray) -> float:
    """The scale that makes softmax_i(scale cos_ij) likeliest for the labelled pairs: a temperature where none is known.

    argmax over scale of mean_(i, j labelled) log softmax_i(scale cos_ij), concave: InfoNCE's own criterion in the
    direction the entropy is taken, on pairs that nothing was trained on. `cosines` [n, m] of images and texts,
    `positives` bool [n, m].

    Raises:
      ValueError: if no pair is labelled, or the shapes differ.
    """
    if cosines.shape != positives.shape or not positives.any():
        raise ValueError(
            f"scale: got cosines {list(cosines.shape)} and {int(positives.sum())} labelled pairs of "
            f"{list(positives.shape)}, expected one at least, in the same shape"
        )
    cosines, (_, texts) = cosines.astype(np.float64), np.nonzero(positives)
    labelled = cosines[positives]

    def loss(log_scale: float) -> float:
        scale = np.exp(log_scale)
        return float(np.mean(logsumexp(scale * cosines, axis=0)[texts] - scale * labelled))

    found = minimize_scalar(loss, bounds=np.log(SCALES), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def choose_weight(
    scores: np.ndarray, bias: np.ndarray, positives: np.ndarray, weights: Sequence[float] = WEIGHTS
) -> float:
    """The weight of a bias [m] with the largest R@1 + R@5 + R@10 of texts for images; of equals the first.

    `scores` and `positives` [n, m]. Labels decide, so what is chosen is right for "which caption was it labelled
    with?", and too small for "which captions are true?".
    """
    return max(weights, key=lambda w: sum(recall_at_k(scores + w * bias, positives, RSUM_KS).values()))
