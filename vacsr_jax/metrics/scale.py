"""The scale of a cosine that makes labelled pairs likeliest, for a model that does not say its own."""

from __future__ import annotations

import numpy as np

SCALES = (1.0, 1000.0)  # the range in which a scale is searched; CLIP's is 100


def fit_scale(cosines: np.ndarray, positives: np.ndarray) -> float:
    """Fits the scale that makes softmax_i(scale cos_ij) likeliest for the labelled pairs, if the model's is not known.

    argmax over scale of mean_(i, j labelled) log softmax_i(scale cos_ij), which is concave. It is InfoNCE's own
    criterion, in the direction in which the entropy is computed, on pairs that were not trained on.

    Args:
      cosines: [n, m] of images and texts.
      positives: bool [n, m], the labelled pairs.

    Raises:
      ValueError: if no pair is labelled, or the shapes differ.
    """
    if cosines.shape != positives.shape or not positives.any():
        raise ValueError(
            f"scale: got cosines {list(cosines.shape)} and {int(positives.sum())} labelled pairs of "
            f"{list(positives.shape)}, expected at least one, and the same shape"
        )
    cosines, (_, texts) = cosines.astype(np.float64), np.nonzero(positives)
    labelled = cosines[positives]

    from scipy.optimize import minimize_scalar  # late: takes as long to import as JAX, and a search needs none of it
    from scipy.special import logsumexp

    def loss(log_scale: float) -> float:
        scale = np.exp(log_scale)
        return float(np.mean(logsumexp(scale * cosines, axis=0)[texts] - scale * labelled))

    found = minimize_scalar(loss, bounds=np.log(SCALES), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))
