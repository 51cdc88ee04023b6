"""The reliability plot of `vacsr calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.metrics.calibration import Reliability, reliability, reliability_by_positives, wilson_interval

BINS = 10
RARE = 0.1  # a share of positives below which bins hold equally many of them, instead of equally many pairs


def draw_reliability(path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], kind: str) -> None:
    """Draws the share of positives against the predicted probability, with 95 % intervals.

    The bins hold equally many pairs or, where positives are rare, equally many expected positives.

    Args:
      path: a name that ends in .png, .svg or .pdf.
      curves: name -> probabilities and bool labels of pairs, any shape.
      kind: what a positive is, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, label="perfectly calibrated")
    for (name, (probability, label)), marker in zip(curves.items(), "os^", strict=False):
        rare = np.mean(label) < RARE
        curve = (reliability_by_positives if rare else equal_bins)(probability, label, BINS)
        low, high = wilson_interval(curve.accuracy, curve.count)
        axes.errorbar(
            curve.confidence,
            curve.accuracy,
            yerr=np.maximum([curve.accuracy - low, high - curve.accuracy], 0),
            marker=marker,
            capsize=3,
            linewidth=1.2,
            label=f"{name} ({np.size(label):,} pairs)",
        )
    axes.set(xlabel="predicted probability", ylabel=f"share of {kind} (95 % interval)", xlim=(-0.02, 1.02))
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="upper left", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=150))


def equal_bins(probability: np.ndarray, label: np.ndarray, bins: int) -> Reliability:
    return reliability(probability, label, bins, equal_mass=True)
