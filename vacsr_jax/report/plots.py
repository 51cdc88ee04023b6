"""Figures as inline SVG and pictures as data URLs, for a page that loads nothing else.

Matplotlib is used through its object-oriented interface: no pyplot, no global state. Colours are CSS variables of the
page (see html.py), so that a figure works in light and dark mode. Text stays text and takes the page's font.
"""

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vacsr_jax.metrics.calibration import Reliability
from vacsr_jax.metrics.uncertainty import UncertaintyBins

# Matplotlib needs colours and the page needs variables: unlikely colours are placeholders, replaced in the SVG.
_VARIABLES = {
    "#010203": "var(--ink)",
    "#010204": "var(--grid)",
    "#010205": "var(--c0)",
    "#010206": "var(--c1)",
    "#010207": "var(--c2)",
    "#010208": "var(--c3)",
}
INK, GRID, *SERIES = _VARIABLES
_DASHES = ["-", "--", ":", "-."]  # dashes distinguish the lines without colour
_PIXEL_ART = 64  # a picture with sides up to this many pixels is kept exactly
THUMBNAIL = 256


def histogram_svg(
    scores: dict[str, np.ndarray],
    xlabel: str = "score (logit)",
    bins: int = 60,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draws score histograms of up to four classes of pairs, each scaled to area 1, as inline SVG.

    `scores` maps a name to a vector of any length. Infinite values are left out. An empty class only appears in the
    legend. `limits` are the ends of the axis; by default the smallest and the largest value.
    """
    values = {name: np.asarray(v, float).ravel() for name, v in scores.items()}
    values = {name: v[np.isfinite(v)] for name, v in values.items()}
    everything = np.concatenate(list(values.values()))
    edges = np.histogram_bin_edges(everything, bins, limits) if len(everything) else np.linspace(0, 1, bins)
    figure, axes = _figure(4.8, 2.9)
    for (name, v), colour, dash in zip(values.items(), SERIES, _DASHES, strict=False):
        density = np.histogram(v, edges, density=True)[0] if len(v) else np.zeros(len(edges) - 1)
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.18)
        label = f"{name} ({len(v):,})"
        axes.stairs(density, edges, color=colour, linestyle=dash, linewidth=1.6, label=label)
    axes.set(xlabel=xlabel, ylabel="density", xlim=(edges[0], edges[-1]))
    axes.set_ylim(0, 1.35 * axes.dataLim.ymax or 1)  # room for the legend
    _legend(axes)
    return to_svg(figure, "histogram")


def counts_svg(counts: np.ndarray, xlabel: str, threshold: float | None = None) -> str:
    """Draws counts in equal bins of a probability from 0 to 1 on a logarithmic scale, and a threshold as a line."""
    figure, axes = _figure(4.8, 2.4)
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=SERIES[0], alpha=0.35)
    axes.set(xlabel=xlabel, ylabel="pairs", xlim=(0, 1), yscale="log", ylim=(0.5, 2 * max(int(np.max(counts)), 1)))
    if threshold is not None:
        axes.axvline(threshold, color=SERIES[1], linestyle="--", linewidth=1.6, label=f"threshold {threshold:g}")
        _legend(axes)
    return to_svg(figure, "counts")


def uncertainty_svg(curves: dict[str, UncertaintyBins], metric: str = "R@1") -> str:
    """Draws R@1 or mAP@R in bins of increasing uncertainty (Wei et al. 2026, Figures 3 and 6), up to four lines."""
    figure, axes = _figure(4.8, 3.0)
    for (name, bins), colour, dash in zip(curves.items(), SERIES, _DASHES, strict=False):
        label = f"{name}: Pearson {bins.pearson:+.2f}, Spearman {bins.spearman:+.2f}"
        _line(axes, bins.uncertainty, bins.quality, color=colour, linestyle=dash, label=label)
    axes.set(xlabel=f"mean uncertainty of the best {'pair' if metric == 'R@1' else 'pairs'}", ylabel=metric)
    axes.set_ylim(0, 1.4 * max(0.05, *(float(np.max(bins.quality)) for bins in curves.values())))
    _legend(axes)
    return to_svg(figure, f"uncertainty {metric}")


def reliability_svg(curves: dict[str, Reliability]) -> str:
    """Draws up to four reliability curves, and below them the pairs per bin of the first one, as inline SVG."""
    figure, (top, bottom) = _figure(4.8, 3.8, rows=[3, 1])
    top.plot([0, 1], [0, 1], color=INK, linewidth=1, alpha=0.5, label="perfectly calibrated")
    for (name, curve), colour, dash in zip(curves.items(), SERIES, _DASHES, strict=False):
        _line(top, curve.confidence, curve.accuracy, color=colour, linestyle=dash, label=name)
    top.set(ylabel="share of matches", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(top)
    first = next(iter(curves.values()))
    bottom.vlines(first.confidence, 0.5, first.count, color=SERIES[2], linewidth=5)
    bottom.set(xlabel="predicted match probability", ylabel="pairs", yscale="log", xlim=(-0.02, 1.02))
    bottom.set_ylim(0.5, 3 * float(np.max(first.count)))
    return to_svg(figure, "reliability")


def curve_svg(name: str, steps: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> str:
    """Draws one training curve as inline SVG; a long one faintly, under its running mean."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    figure, axes = _figure(3.4, 2.2)
    axes.set_title(name, loc="left", fontsize=10, color=INK)
    width = len(values) // 25
    if width < 2:
        axes.plot(steps, values, "o-", color=SERIES[0], linewidth=1.4, markersize=3)
    else:
        axes.plot(steps, values, color=SERIES[0], linewidth=0.6, alpha=0.35)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width // 2 :][: len(smooth)], smooth, color=SERIES[0], linewidth=1.6)
    axes.set_xlabel("step")
    return to_svg(figure, name)


def image_address(image: np.ndarray) -> tuple[str, bool]:
    """Returns a picture's data URL and whether it is pixel art; see `encode_image`."""
    blob, kind, small = encode_image(image, THUMBNAIL)
    return f"data:image/{kind};base64,{base64.b64encode(blob).decode()}", small


def encode_image(image: np.ndarray, side: int) -> tuple[bytes, str, bool]:
    """Returns a picture's file, its kind, and whether it is pixel art. Small pictures become PNG, larger ones JPEG.

    `image` uint8 [h, w, 3] or [h, w] is reduced to at most `side` pixels a side. Raises ValueError for another dtype or
    shape.
    """
    from PIL import Image

    image = np.asarray(image)
    grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_rgb or image.size == 0:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 [h, w, 3] or [h, w]")
    small = max(image.shape[:2]) <= _PIXEL_ART
    picture, kind = Image.fromarray(image), "png" if small else "jpeg"
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if small else {"quality": 85}))
    return buffer.getvalue(), kind, small


def _figure(width: float, height: float, rows: Sequence[float] | None = None):
    """Makes a bare figure and its axes; with `rows`, the height ratios, a list of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    shape: dict[str, Any] = {"nrows": len(rows), "height_ratios": rows, "sharex": True} if rows else {}
    axes = figure.subplots(**shape)
    for a in np.atleast_1d(axes):
        a.patch.set_alpha(0)
        a.spines[["top", "right"]].set_visible(False)
        a.spines[["left", "bottom"]].set_color(GRID)
        a.grid(color=GRID, linewidth=0.6)
        a.set_axisbelow(True)
        a.tick_params(colors=INK, labelsize=9, length=0, which="both")
        a.xaxis.label.set_color(INK)
        a.yaxis.label.set_color(INK)
    return figure, axes


def _line(axes, x: np.ndarray, y: np.ndarray, **style) -> None:
    axes.plot(x, y, marker="o", linewidth=1.6, markersize=5, **style)


def _legend(axes) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def to_svg(figure, salt: str) -> str:
    """Returns the figure as an <svg> that scales, without metadata, fonts, or ids that clash with another figure's."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):  # the salt makes the ids reproducible
        figure.savefig(stream, format="svg", transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)[ >].*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", svg)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    svg = re.sub(r"('[^']*', )+sans-serif", "sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
