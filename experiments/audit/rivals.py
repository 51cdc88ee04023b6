"""What else tells a wrong label from a right one, given scores [n images, m captions] and the label of each caption."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

CLIP_THRESHOLD = 0.28  # of the cosine, as LAION-400M was filtered


def own(scores: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """The score of each caption with its label's image, [m]."""
    return scores[image_of, np.arange(len(image_of))]


def sigmoid_loss(logit: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """The loss of each label under the sigmoid loss, [m]."""
    return np.logaddexp(0, -own(logit, image_of))


def infonce_loss(logit: np.ndarray, image_of: np.ndarray) -> np.ndarray:
    """The loss of each label under InfoNCE, over all images and all captions, [m]."""
    return -(own(log_softmax(logit, axis=0), image_of) + own(log_softmax(logit, axis=1), image_of)) / 2


def mixture(loss: np.ndarray, steps: int = 200) -> np.ndarray:
    """P(high loss) of each label, by a mixture of two Gaussians on the losses scaled to 0 .. 1.

    DivideMix (Li et al. 2020) and NCR (Huang et al. 2021) take the component of the smaller mean for the clean labels.
    """
    x = (loss - loss.min()) / max(float(np.ptp(loss)), 1e-12)
    mean, var, share = np.quantile(x, [0.1, 0.9]), np.full(2, x.var() + 1e-6), np.array([0.5, 0.5])
    for _ in range(steps):
        log_p = np.log(share) - 0.5 * np.log(var) - 0.5 * (x[:, None] - mean) ** 2 / var
        p = softmax(log_p, axis=1)
        weight = p.sum(axis=0) + 1e-9
        mean, share = (p * x[:, None]).sum(axis=0) / weight, weight / weight.sum()
        var = (p * (x[:, None] - mean) ** 2).sum(axis=0) / weight + 5e-4  # as in their code
    return p[:, int(np.argmax(mean))]


def cleanlab_scores(logit: np.ndarray, image_of: np.ndarray) -> dict[str, np.ndarray]:
    """How wrong a label is for cleanlab, which sees captions as examples and images as classes; {} without cleanlab."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    present, label = np.unique(image_of, return_inverse=True)  # it wants every class to have an example
    p = softmax(logit[present].astype(np.float64), axis=0).T
    return {name: -get_label_quality_scores(label, p, method=name) for name in ("self_confidence", "normalized_margin")}
