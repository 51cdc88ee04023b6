"""Why a model of method tokens holds a text to be true of an image: which word found which place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vacsr_jax.data.tokenizer import Tokenizer
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.base import Item
from vacsr_jax.scoring.model import probabilities, score_pairs
from vacsr_jax.towers.base import longest_text


@dataclass(frozen=True)
class Explanation:
    """A text's tokens and the places that they found in an image. Printed, it is a table.

    Attributes:
      text: the text.
      picture: uint8 [s, s, 3], the image as the model sees it.
      tokens: the l tokens of the text.
      weight: [l] how much each token counts, 0 to 1.
      probability: [l] that the token has a place in the image.
      share: [l, p] how much of that is due to each place; sums to 1 over the places.
      regions: for each place the cells that it spans, counted row by row; none of them: the whole image.
      match_probability: that the text is true of the image.
    """

    text: str
    picture: np.ndarray
    tokens: tuple[str, ...]
    weight: np.ndarray
    probability: np.ndarray
    share: np.ndarray
    regions: tuple[tuple[int, ...], ...]
    match_probability: float

    @property
    def factor(self) -> np.ndarray:
        """[l] what each token contributes: the match probability is the product of the factors.

        A factor is probability^weight, to a power that is the same for all tokens and makes up for calibration.
        """
        logs = self.weight * np.log(self.probability)
        return np.exp(logs * (np.log(self.match_probability) / min(logs.sum(), -1e-12)))

    @property
    def grid(self) -> int:
        """How many cells a side of the image has; 0 if the model sees only the whole image."""
        return math.isqrt(1 + max((cell for cells in self.regions for cell in cells), default=-1))

    def share_of_cells(self, token: int) -> tuple[np.ndarray, float]:
        """The share [grid, grid] of each cell in what a token found, and that of the whole image; they sum to 1.

        A pair of cells counts half for each.
        """
        found, whole = np.zeros(self.grid**2), 0.0
        for cells, share in zip(self.regions, self.share[token], strict=True):
            whole += 0 if cells else float(share)
            for cell in cells:
                found[cell] += share / len(cells)
        return found.reshape(self.grid, self.grid), whole

    def best_place(self, token: int) -> str:
        """The place with the largest share, in words: rows and columns count from 1."""
        cells = self.regions[int(self.share[token].argmax())]
        return " -> ".join(f"row {c // self.grid + 1}, column {c % self.grid + 1}" for c in cells) or "whole image"

    def __str__(self) -> str:
        width = max(map(len, self.tokens))
        lines = [f"{self.match_probability:.3f}  {self.text}", f"{'token':{width}}  weight  found  factor  where"]
        for i, token in enumerate(self.tokens):
            numbers = f"{self.weight[i]:6.2f} {self.probability[i]:6.3f} {self.factor[i]:7.3f}"
            lines.append(f"{token:{width}}  {numbers}  {self.best_place(i)} ({self.share[i].max():.0%})")
        return "\n".join(lines)


def explain(
    model: ImageTextModel, params: Any, tokenizer: Tokenizer, image: Item, text: Item, picture: np.ndarray, words: str
) -> Explanation:
    """Explains one image and one text, both as items of one row; `picture` and `words` are what they were made of.

    Raises:
      ValueError: if the model compares an image and a text as wholes.
    """
    found: Any = model.apply(*jax.device_put(({"params": params}, image, text)), method="explain")
    ids = tokenizer([words])
    length = longest_text(ids, model.towers_config.text)
    weight, probability, share = (np.asarray(x, np.float64)[0, :length] for x in jax.device_get(found[:3]))
    pieces = tuple(piece(tokenizer, int(i)) for i in ids[0, :length])
    match = probabilities(model, score_pairs(model, params, image, text))
    assert match is not None, "a model that explains gives a probability"
    return Explanation(words, picture, pieces, weight, probability, share, found.regions, float(match[0, 0]))


def piece(tokenizer: Tokenizer, token: int) -> str:
    """A token as a reader knows it."""
    special = {tokenizer.start_id: "(start)", tokenizer.end_id: "(end)"}
    return special.get(token) or tokenizer.backend.decode([token]).strip() or "(space)"
