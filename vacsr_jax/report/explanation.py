"""Draws an explanation: the picture once for each word, with the places lit that the word found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.evaluation.explanation import Explanation
from vacsr_jax.report import plots

LEAST_WEIGHT = 0.2  # of a token that is drawn: the others hardly matter
PANELS = 8  # in a row
SIDE = 192  # pixels of a drawn picture, at least
DARK = 0.15  # what is left of the light where nothing was found
HOLDS, FAILS = "#0b6e5f", "#c2500a"  # a probability above, or below, one half


def save_explanation(explanation: Explanation, file: str | Path) -> None:
    """Writes the drawing to a file, as PNG, SVG or PDF by its name."""
    kind = Path(file).suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"{file}: got the ending {kind!r}, expected png, svg or pdf")
    figure = draw(explanation, "#1d2430")
    figure.patch.set_facecolor("white")
    replace_whole(Path(file), lambda path: figure.savefig(path, format=kind, dpi=110))


def explanation_svg(explanation: Explanation) -> str:
    """The drawing as inline SVG for a page; its text takes the page's colour."""
    return plots.to_svg(draw(explanation, plots.INK), explanation.text)


def draw(explanation: Explanation, ink: str) -> Any:
    """Draws the picture, and again for each token that counts, and returns the figure.

    A cell is as bright as its share in what the token found. A frame means that the image as a whole has most of the
    share, and an arrow a pair of cells. The bar is the token's factor in the match probability, as the number.
    """
    from matplotlib.figure import Figure

    shown = [i for i, weight in enumerate(explanation.weight) if weight >= LEAST_WEIGHT]
    rows = -(-(len(shown) + 1) // PANELS)
    columns = min(len(shown) + 1, PANELS)
    figure = Figure(figsize=(1.25 * columns, 1.62 * rows + 0.35), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in panels:
        panel.axis("off")
    picture = enlarged(explanation.picture)
    panels[0].imshow(picture)
    panels[0].set_title("the picture", fontsize=8, color=ink)
    for panel, token in zip(panels[1:], shown, strict=False):
        draw_token(panel, explanation, token, picture, ink)
    title = f"“{explanation.text}”: match probability {explanation.match_probability:.2f}"
    figure.suptitle(title, fontsize=10, color=ink, x=0.01, ha="left")
    return figure


def draw_token(panel: Any, explanation: Explanation, token: int, picture: np.ndarray, ink: str) -> None:
    """Draws one token's panel."""
    cells, whole = explanation.share_of_cells(token)
    tone = HOLDS if explanation.probability[token] >= 0.5 else FAILS
    size, grid = len(picture), explanation.grid
    light = np.ones((1, 1)) if not grid else DARK + (1 - DARK) * np.minimum(cells + whole, 1)
    panel.imshow((picture * stretched(light, size)[..., None]).astype(np.uint8))
    best = explanation.regions[int(explanation.share[token].argmax())]
    if not best:
        panel.add_patch(frame(size, tone))
    if len(best) == 2:
        ends = [((c % grid + 0.5) * size / grid, (c // grid + 0.5) * size / grid) for c in best]
        panel.annotate("", xy=ends[1], xytext=ends[0], arrowprops={"arrowstyle": "-|>", "color": tone, "lw": 2})
    factor = explanation.factor[token]
    panel.set_title(explanation.tokens[token], fontsize=9, color=ink, pad=3)
    panel.plot([0, size * factor], [1.06 * size] * 2, color=tone, linewidth=3, clip_on=False, solid_capstyle="butt")
    panel.text(0, 1.28 * size, f"{factor:.2f}", fontsize=8, color=tone, ha="left")
    panel.set(xlim=(-0.5, size - 0.5), ylim=(1.3 * size, -0.5))


def frame(size: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((1, 1), size - 3, size - 3, fill=False, edgecolor=colour, linewidth=3)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with every pixel repeated, so that viewers do not blur it."""
    times = max(1, -(-SIDE // len(picture)))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def stretched(cells: np.ndarray, size: int) -> np.ndarray:
    """The value [size, size] that each pixel has of the cell that it lies in."""
    of = np.arange(size) * len(cells) // size
    return cells[np.ix_(of, of)]
