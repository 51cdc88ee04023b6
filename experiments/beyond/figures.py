"""The figures of the propensity model, from the arrays that `measure` kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

NOISE = (0.0, 0.2, 0.5)


def draw(out: Path, seeds: range) -> list[Path]:
    """Writes propensity.png into `out` from whatever runs of the method are finished; nothing if none is."""
    runs = {
        (noise, seed): out / f"propensity-noise{noise}-seed{seed}.json"
        for noise in NOISE
        for seed in seeds
        if (out / f"propensity-noise{noise}-seed{seed}.json").exists()
    }
    clean = next((path for (noise, _), path in runs.items() if noise == 0), None)
    if clean is None:
        return []
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    arrays = np.load(out / "measured" / f"{clean.stem}.npz")
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    generality(axes[0, 0], arrays["count"], arrays["g"])
    probabilities(axes[0, 1], arrays)
    first = {noise: path for (noise, seed), path in sorted(runs.items(), reverse=True)}
    calibration(axes[1, 0], {noise: np.load(out / "measured" / f"{first[noise].stem}.npz") for noise in sorted(first)})
    rates = [(noise, json.loads(path.read_text())["noise_rate"]) for (noise, _), path in runs.items()]
    noise_rates(axes[1, 1], rates)
    figure.savefig(out / "propensity.png", dpi=110)
    plt.close(figure)
    return [out / "propensity.png"]


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
