"""Figures of scenes: sensitivity, and the learning curves of towers from scratch and pretrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def sensitivity(
    points: Mapping[str, Mapping[float, Sequence[float]]],
    default: Mapping[str, float],
    base: Sequence[float],
    file: Path,
) -> None:
    """Writes a figure of mAP@R (mean and range over seeds) against each number.

    `points`: name -> value -> mAP@R per seed. `default`: name -> the value in the runs of `base`.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, (len(points) + 1) // 2, figsize=(10, 5.5), sharey=True, layout="constrained")
    for panel, (name, values) in zip(axes.flat, points.items(), strict=False):
        line = sorted([*values.items(), (default[name], base)])
        places, means = range(len(line)), [np.mean(runs) for _, runs in line]
        spread = [[abs(m - f(runs)) for m, (_, runs) in zip(means, line, strict=True)] for f in (min, max)]
        panel.errorbar(places, means, yerr=spread, marker="o", capsize=3)
        panel.set_xticks(places, [f"{value:g}" for value, _ in line])
        chosen = [value for value, _ in line].index(default[name])
        panel.plot(chosen, means[chosen], marker="o", color="black", markersize=9, fillstyle="none")
        panel.set_title(name)
    for panel in axes[:, 0]:
        panel.set_ylabel("mAP@R, validation")
    for panel in list(axes.flat)[len(points) :]:
        panel.set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[Sequence[tuple[int, float]]]]], file: Path) -> None:
    """Writes a figure of the validation rsum against the step, a line for each run.

    `curves`: panel -> method -> one list of (step, rsum) per seed.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3.6), sharey=True, squeeze=False, layout="constrained")
    for panel, (title, methods) in zip(axes[0], curves.items(), strict=True):
        for colour, (method, runs) in enumerate(methods.items()):
            for seed, run in enumerate(runs):
                panel.plot(*zip(*run, strict=True), color=f"C{colour}", label=None if seed else method)
        panel.set_title(title)
        panel.set_xlabel("step")
        if methods:
            panel.legend()
    axes[0, 0].set_ylabel("validation rsum")
    figure.savefig(file, dpi=110)
    plt.close(figure)
