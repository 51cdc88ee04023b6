"""Judges every pair of images and captions in tiles: memory grows with their sum, not with their product."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.audit.judge import Judge, label_parts
from vacsr_jax.audit.label_model import LabelModel
from vacsr_jax.ops.pairwise import count, even_part
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.scoring.pairs import DELAY, pairs_per_tile

ROWS, COLUMNS = 1024, 4096  # of a tile
BETTER = 3  # images that a caption would rather belong to
LEAST = 0.01 / 0.99  # odds: a pair that is less likely a match than this is never listed
BINS = 50  # of the histogram of p_match from 0 to 1


class Best:
    """The k pairs with the highest scores above `floor`, in the memory of a few k."""

    def __init__(self, k: int, floor: float):
        self.k, self.floor = k, floor
        self.score, self.pair = np.empty(0, np.float32), np.empty((0, 2), np.int64)

    def add(self, score: np.ndarray, pair: np.ndarray) -> None:
        """Takes pairs with these scores [p] and these two numbers [p, 2]."""
        self.score, self.pair = np.concatenate([self.score, score]), np.concatenate([self.pair, pair])
        if len(self.score) > 2 * self.k:
            self._shrink()

    def _shrink(self) -> None:
        kept = np.argpartition(-self.score, self.k - 1)[: self.k]
        self.score, self.pair = self.score[kept], self.pair[kept]
        self.floor = float(self.score.min())

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores and the pairs, best first; equal ones in the order of their numbers."""
        order = np.lexsort((self.pair[:, 1], self.pair[:, 0], -self.score))[: self.k]
        return self.score[order], self.pair[order]


@dataclasses.dataclass
class Seen:
    """What has been seen of all pairs so far.

    Attributes:
      right: [m] q e of each caption with its label's image (`label_model`); NaN until its judge has come.
      total: [m] the sum of q e over all images.
      better, better_right: [BETTER, m] the images whose label the caption would most likely be, besides its own, and
        their q e; -1 where there is none.
      best: the likeliest unlabelled matches, by the odds of p_match.
      expected: the sum of p_match over all unlabelled pairs.
      histogram: of p_match over the unlabelled pairs, `BINS` equal bins.
    """

    right: np.ndarray
    total: np.ndarray
    better: np.ndarray
    better_right: np.ndarray
    best: Best
    expected: float
    histogram: np.ndarray

    @classmethod
    def nothing(cls, m: int, k: int) -> Seen:
        """Before the first pair, of m captions; k pairs are listed."""
        return cls(
            np.full(m, np.nan),
            np.zeros(m),
            np.full((BETTER, m), -1),
            np.zeros((BETTER, m), np.float32),
            Best(k, LEAST),
            0.0,
            np.zeros(BINS, np.int64),
        )


def look(judge: Judge, fitted: LabelModel, seen: Seen) -> None:
    """Adds all pairs of a judge's images with all captions to what has been seen."""
    n, m = len(judge.data.source), len(judge.data.image_of)
    fitted = fitted.among(n)
    rows = np.sort(judge.rows)
    images, texts = judge.image_items(rows), judge.text_items(np.arange(m))
    height, width = even_part(len(rows), ROWS), even_part(m, COLUMNS)
    scorer = prepare_scorer(judge.trained.model, judge.trained.params)
    tile = functools.partial(
        _tile,
        scorer,
        theta=jnp.asarray(fitted.theta, jnp.float32),
        share=jnp.float32((1 - fitted.noise_rate) / (1 - fitted.noise_rate / n)),
        tile_pairs=pairs_per_tile(scorer, images, texts),
    )
    with tqdm(
        total=len(rows) * m, desc="judging pairs", unit=" pairs", unit_scale=True, delay=DELAY, leave=False
    ) as bar:
        for left in range(0, m, width):
            columns = slice(left, min(left + width, m))
            captions = jax.device_put(_padded(texts, columns, width))
            owners = np.pad(judge.data.image_of[columns], (0, width - (columns.stop - left)), constant_values=-2)
            for top in range(0, len(rows), height):
                part = slice(top, min(top + height, len(rows)))
                numbers = np.pad(rows[part], (0, height - (part.stop - top)), constant_values=-1)
                found = tile(_padded(images, part, height), captions, numbers.astype(np.int32), owners.astype(np.int32))
                _take(seen, jax.device_get(found), rows[part], columns)
                bar.update((part.stop - top) * (columns.stop - left))


def _padded(items: Any, part: slice, size: int) -> Any:
    length = part.stop - part.start
    return jax.tree.map(lambda x: np.pad(x[part], [(0, size - length), *[(0, 0)] * (x.ndim - 1)]), items)


@functools.partial(jax.jit, static_argnames="tile_pairs")
def _tile(scorer, images, texts, rows, owners, theta, share, *, tile_pairs):
    """Of a tile: the odds of p_match of unlabelled pairs [r, c] (else 0) and the sum of p_match; of each caption q e of
    its label, whether its label is here, the sum of q e, and the best other images with their q e.

    `share` is (1 - nu) / (1 - nu / n). Beyond +-80, exp leaves float32. Two exponentials a pair are most of the time.
    """
    a, h = label_parts(scorer, images, texts, tile_pairs=tile_pairs)
    no_match = jnp.exp(-jnp.clip(jnp.exp(theta[0]) * a + theta[1], -80, 80))
    no_label = jnp.exp(-jnp.clip(h + theta[2], -80, 80))
    e = 1 / (1 + no_label)
    labelled = rows[:, None] == owners[None, :]
    real = (rows >= 0)[:, None] & (owners >= 0)[None, :]
    right = jnp.where(real, e / (1 + no_match), 0)
    odds = jnp.where(real & ~labelled, (1 - share * e) / no_match, 0)
    own = jnp.sum(jnp.where(labelled, right, 0), axis=0)
    others, better, places = jnp.where(labelled, 0, right), [], jnp.arange(count(images))
    for _ in range(BETTER):
        at = jnp.argmax(others, axis=0)
        better.append((rows[at], jnp.max(others, axis=0)))
        others = jnp.where(places[:, None] == at[None, :], 0, others)
    expected = jnp.sum(odds / (1 + odds))
    return odds, expected, own, jnp.any(labelled, axis=0), jnp.sum(right, axis=0), better


def _take(seen: Seen, found: Any, rows: np.ndarray, columns: slice) -> None:
    odds, expected, own, here, total, better = found
    width = columns.stop - columns.start
    odds, own, here = odds[: len(rows), :width], own[:width], here[:width]
    seen.expected += float(expected)
    seen.total[columns] += total[:width]
    seen.right[columns] = np.where(here, own, seen.right[columns])
    values = np.concatenate([seen.better_right[:, columns], [v[:width] for _, v in better]])
    numbers = np.concatenate([seen.better[:, columns], [r[:width] for r, _ in better]])
    order = np.argsort(-values, axis=0, kind="stable")[:BETTER]
    seen.better_right[:, columns] = np.take_along_axis(values, order, axis=0)
    seen.better[:, columns] = np.take_along_axis(numbers, order, axis=0)
    flat = odds.ravel()
    likely = np.flatnonzero(flat > LEAST)
    histogram = np.histogram(flat[likely] / (1 + flat[likely]), BINS, (0, 1))[0]
    histogram[0] += odds.size - int(here.sum()) - len(likely)
    seen.histogram += histogram
    likely = likely[flat[likely] > seen.best.floor]
    pair = np.stack([rows[likely // width], likely % width + columns.start], axis=1)
    seen.best.add(flat[likely], pair)
