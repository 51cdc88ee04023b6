"""Calibration of predicted match probabilities: reliability curve and expected calibration error."""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """One entry per non-empty bin: mean predicted probability, share of positives, number of pairs."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15, equal_mass: bool = False) -> Reliability:
    """Compares the predicted probability with the share of positives, bin by bin.

    Bin b holds the pairs with b/bins < p <= (b+1)/bins (Guo et al. 2017; p = 0 joins the first bin). With `equal_mass`
    every bin holds about as many pairs (Nixon et al. 2019). Labels of image-text pairs are sparse, so nearly all pairs
    fall into the first bin of equal width and hide the others; bins of equal mass show where they differ. Equal
    probabilities always share a bin. Empty bins are left out. `probabilities` and bool `labels` have the same shape,
    any. Raises ValueError for probabilities that are NaN or outside [0, 1], unequal shapes, no pair, or bins < 1.

    >>> reliability(np.array([0.1, 0.2, 0.9]), np.array([False, True, True]), bins=2).accuracy.tolist()
    [0.5, 1.0]
    """
    p, y = _check_probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    if equal_mass:
        edges = np.unique(np.quantile(p, edges)) if bins > 1 else edges
    index = np.searchsorted(edges, p, side="left")
    count = np.bincount(index, minlength=len(edges) + 1)
    full = count > 0
    confidence = np.bincount(index, weights=p, minlength=len(count))[full] / count[full]
    accuracy = np.bincount(index, weights=y, minlength=len(count))[full] / count[full]
    return Reliability(confidence, accuracy, count[full])


def reliability_by_positives(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> Reliability:
    """`reliability` in bins that each hold about as many expected positives: for positives that are rare.

    Where one pair in a thousand is a match, bins of equal mass all lie near 0, and those of equal width are nearly
    empty. Equal probabilities share a bin, as in `reliability`.

    >>> reliability_by_positives(np.array([0.1, 0.1, 0.2, 0.4]), np.array([False, False, True, True]), 2).count.tolist()
    [3, 1]
    """
    p, y = _check_probabilities(probabilities, labels)
    values, inverse, count = np.unique(p, return_inverse=True, return_counts=True)
    mass = np.cumsum(values * count)
    index = np.minimum((bins * (mass - values * count / 2) / max(mass[-1], 1e-300)).astype(int), bins - 1)[inverse]
    total = np.bincount(index, minlength=bins)
    full = total > 0
    confidence, accuracy = (np.bincount(index, weights=x, minlength=bins)[full] / total[full] for x in (p, y))
    return Reliability(confidence, accuracy, total[full])


def _check_probabilities(probabilities, labels) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities), np.asarray(labels)
    if p.shape != y.shape or p.size == 0:
        raise ValueError(f"probabilities have shape {p.shape} and labels {y.shape}; give one label per pair")
    if y.dtype != bool:
        raise ValueError(f"labels have dtype {y.dtype}, expected bool: threshold them first")
    if not ((p >= 0) & (p <= 1)).all():  # also refuses NaN
        raise ValueError(f"probabilities lie in [{p.min()}, {p.max()}], not in [0, 1]: pass sigmoid(logits)")
    return p.ravel().astype(np.float64), y.ravel()


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15, equal_mass: bool = False
) -> float:
    """Mean distance between predicted probability and share of positives, weighted by the counts of the bins.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| (Naeini et al. 2015; Guo et al. 2017). Arguments, bins and errors
    as in `reliability`.

    >>> round(expected_calibration_error(np.array([0.2, 0.4, 0.9]), np.array([False, True, True]), bins=2), 6)
    0.166667
    """
    curve = reliability(probabilities, labels, bins, equal_mass)
    gap = np.abs(curve.accuracy - curve.confidence)
    return float(np.sum(curve.count * gap) / np.sum(curve.count))


def wilson_interval(share: np.ndarray, count: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of a share of `count` independent trials (Wilson 1927); 95 % by default.

    >>> [round(float(x), 3) for x in wilson_interval(np.array(0.0), np.array(10))]
    [0.0, 0.278]
    """
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def ece_by_chance(probabilities: np.ndarray, bins: int = 15, equal_mass: bool = False, draws: int = 200) -> float:
    """The 95 % quantile of the ECE that labels drawn from the probabilities themselves would have.

    A perfectly calibrated model has an ECE above 0, since the share in a bin varies. An ECE below this number does not
    speak against the probabilities. Arguments as in `reliability`.
    """
    p, rng = np.asarray(probabilities, np.float64).ravel(), np.random.default_rng(0)
    found = [expected_calibration_error(p, rng.random(len(p)) < p, bins, equal_mass) for _ in range(draws)]
    return float(np.quantile(found, 0.95))
