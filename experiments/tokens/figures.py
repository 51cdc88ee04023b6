"""Draws the learning curves, and three explained pairs of a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# Image and caption of the test split of seed 0: a match, a caption with one wrong claim, and one held true wrongly.
EXPLAINED = ((193, 292), (414, 1859), (472, 2430))


def draw_curves(results: dict[str, dict], out: Path) -> list[Path]:
    """Writes the within-caption AUROC over training of each model, by its row's name; nothing without a result."""
    if not results:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        axes.plot(*zip(*result["curve"], strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="training step", ylabel="AUROC within captions")
    axes.set_title("Unlabelled matches among a caption's own 20 best pairs, validation, seed 0", fontsize=9)
    axes.legend()
    figure.savefig(out / "curves.png", dpi=110)
    return [out / "curves.png"]


def draw_explained(model: Path, out: Path) -> list[Path]:
    """Writes the explanations of three pairs by the model in a folder, one below the other; nothing without it."""
    if not model.exists():
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    import vacsr_jax
    from experiments.scenes.runs import make_config
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.report.explanation import draw

    loaded = vacsr_jax.load(model)
    test = open_split(make_config({}), "test")
    captions = [caption for own in test.captions for caption in own]
    drawn = []
    for image, caption in EXPLAINED:
        canvas = FigureCanvasAgg(draw(loaded.explain(test.image(image), captions[caption]), "#1d2430"))
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3])
    width = max(picture.shape[1] for picture in drawn)
    rows = [np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in drawn]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(out / "explained.png", optimize=True)
    return [out / "explained.png"]
