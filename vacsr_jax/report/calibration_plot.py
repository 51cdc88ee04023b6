"""The reliability plot of `vacsr calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.metrics.calibration import reliability, wilson_interval

BINS = 10


def draw_reliability(path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]], kind: str) -> None:
    """Draws the share of positives against the predicted probability, in bins of equal mass, with 95 % intervals.

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
        curve = reliability(probability, label, BINS, equal_mass=True)
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
