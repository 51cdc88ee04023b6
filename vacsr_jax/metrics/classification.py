"""Classification accuracy, and how benchmarks average it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose best-scored class is their label; scores [n, c], labels int [n]. Images count equally.

    >>> accuracy(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1]))
    0.6666666666666666

    Raises:
      ValueError: for shapes that do not fit, scores that are not finite, or a label outside 0..c-1.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or len(labels) == 0:
        raise ValueError(f"got scores {list(scores.shape)} and labels {list(labels.shape)}, expected [n, c] and [n]")
    if not np.isfinite(scores).all():
        raise ValueError("scores: got a value that is not finite; the model has diverged")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels: got {labels.min()}..{labels.max()} for {scores.shape[1]} classes")
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def harmonic_mean(base: float, new: float) -> float:
    """2 b n / (b + n); 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


class Averages(NamedTuple):
    """Means over data sets of base, new and their harmonic mean, in both conventions.

    Attributes:
      hm_of_means: harmonic mean of the two means, as printed by CoOp, MaPLe, MMA, MMRL and VACSR.
      mean_of_hms: mean of the data sets' harmonic means, as printed by RMAdapter.
    """

    base: float
    new: float
    hm_of_means: float
    mean_of_hms: float


def average_over_datasets(pairs: Mapping[str, tuple[float, float]]) -> Averages:
    """Computes the average row of a base-to-novel table from (base, new) of each data set.

    >>> average_over_datasets({"a": (80.0, 60.0), "b": (60.0, 80.0)}).hm_of_means
    70.0

    Raises:
      ValueError: if there is no data set.
    """
    if not pairs:
        raise ValueError("got no data set to average over, expected at least one")
    base, new = (float(np.mean(values)) for values in zip(*pairs.values(), strict=True))
    return Averages(base, new, harmonic_mean(base, new), float(np.mean([harmonic_mean(*p) for p in pairs.values()])))


class Spread(NamedTuple):
    """Mean over seeds, population standard deviation (what the papers print), and standard error of the mean."""

    mean: float
    std: float
    error: float | None


def over_seeds(values: Sequence[float]) -> Spread:
    """Computes `std` with ddof 0, and `error` as std with ddof 1 over sqrt(seeds); None for a single seed."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Spread(float(np.mean(values)), float(np.std(values)), error)
