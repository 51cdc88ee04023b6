"""Draws the figures of the propensity model from the arrays that `measure` kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def draw(out: Path, names: dict[float, list[str]], file: str) -> list[Path]:
    """Writes the figure to `out` from the finished runs of each noise level; nothing if no clean run is finished."""
    runs = {noise: [name for name in of if (out / f"{name}.json").exists()] for noise, of in names.items()}
    if not runs[0.0]:
        return []
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    measured = {noise: np.load(out / "measured" / f"{of[0]}.npz") for noise, of in runs.items() if of}
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    generality(axes[0, 0], measured[0.0]["count"], measured[0.0]["g"])
    probabilities(axes[0, 1], measured[0.0])
    calibration(axes[1, 0], measured)
    rates = [
        (noise, json.loads((out / f"{name}.json").read_text())["noise_rate"]) for noise in runs for name in runs[noise]
    ]
    noise_rates(axes[1, 1], rates)
    figure.savefig(out / file, dpi=110)
    plt.close(figure)
    return [out / file]


def generality(axes, count: np.ndarray, g: np.ndarray) -> None:
    axes.scatter(count + 1, g, s=4, alpha=0.3)
    axes.set(
        xscale="log", xlabel="test images the caption is true of, plus 1", ylabel="g, log propensity of the caption"
    )
    axes.set_title("General captions get the label less often")


def probabilities(axes, arrays) -> None:
    for name in ("labelled", "unlabelled match", "negative"):
        axes.hist(arrays[f"p {name}"], bins=40, range=(0, 1), density=True, histtype="step", label=name)
    axes.set(xlabel="match probability sigmoid(a)", ylabel="density", yscale="log")
    axes.set_title("Unlabelled matches look like labelled ones")
    axes.legend()


def calibration(axes, by_noise: dict) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for noise, arrays in by_noise.items():
        label = f"{noise:.0%} noise"
        axes.plot(arrays["reliability confidence"], arrays["reliability accuracy"], marker="o", label=label)
    axes.set(xlabel="match probability", ylabel="share of true matches", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability against the truth")
    axes.legend()


def noise_rates(axes, rates: list[tuple[float, float]]) -> None:
    axes.plot([0, 0.5], [0, 0.5], color="0.7", linewidth=1)
    axes.plot(*zip(*rates, strict=True), marker="o", linestyle="none")
    axes.set(xlabel="share of training captions permuted", ylabel="estimated share nu")
    axes.set_title("The noise floor")
