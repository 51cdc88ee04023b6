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
from vacsr_jax.audit.label_model import LabelModel, match_logit, right_logit, wrong_logit
from vacsr_jax.ops.pairwise import count, even_part
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.scoring.pairs import DELAY, pairs_per_tile

ROWS, COLUMNS = 1024, 4096  # of a tile
BETTER = 3  # images that a caption would rather belong to
LEAST = float(np.log(0.01 / 0.99))  # a pair that is less likely a match than this is never listed
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
      right: [m] `right_logit` of each caption with its label's image; NaN until its judge has come.
      wrong: [m] logit p_wrong.
      better, better_right: [BETTER, m] the images whose label the caption would most likely be, besides its own, and
        their `right_logit`; -1 where there is none.
      best: the likeliest unlabelled matches.
      expected: the sum of p_match over all unlabelled pairs.
      histogram: of p_match over the unlabelled pairs, `BINS` equal bins.
    """

    right: np.ndarray
    wrong: np.ndarray
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
            np.full(m, np.nan),
            np.full((BETTER, m), -1),
            np.full((BETTER, m), -np.inf, np.float32),
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
        judge.trained.params["pair"],
        theta=jnp.asarray(fitted.theta, jnp.float32),
        n=n,
        pair=judge.trained.model.pair,
        tile_pairs=pairs_per_tile(scorer, images, texts),
        score=scorer.tile_function(),
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
    mine = ~np.isnan(seen.right) & np.isnan(seen.wrong)
    seen.wrong[mine] = wrong_logit(fitted.theta, n, seen.right[mine])


def _padded(items: Any, part: slice, size: int) -> Any:
    length = part.stop - part.start
    return jax.tree.map(lambda x: np.pad(x[part], [(0, size - length), *[(0, 0)] * (x.ndim - 1)]), items)


@functools.partial(jax.jit, static_argnames=("n", "pair", "tile_pairs", "score"))
def _tile(scorer, pair_params, images, texts, rows, owners, *, theta, n, pair, tile_pairs, score):
    """Of a tile: logit p_match of unlabelled pairs [r, c] (else -inf) and the sum of p_match; of each caption the
    right logit of its label, whether its label is here, and the best other images with theirs."""
    a, h = label_parts(scorer, pair_params, images, texts, pair=pair, tile_pairs=tile_pairs, score=score)
    labelled = rows[:, None] == owners[None, :]
    real = (rows >= 0)[:, None] & (owners >= 0)[None, :]
    right = right_logit(theta, a, h, jnp)
    logit = jnp.where(real & ~labelled, match_logit(theta, n, a, h, jnp), -jnp.inf)
    own = jnp.sum(jnp.where(labelled, right, 0), axis=0)
    others = jnp.where(real & ~labelled, right, -jnp.inf)
    better, places = [], jnp.arange(count(images))
    for _ in range(BETTER):
        at = jnp.argmax(others, axis=0)
        better.append((rows[at], jnp.max(others, axis=0)))
        others = jnp.where(places[:, None] == at[None, :], -jnp.inf, others)
    return logit, jnp.sum(jax.nn.sigmoid(logit)), own, jnp.any(labelled, axis=0), better


def _take(seen: Seen, found: Any, rows: np.ndarray, columns: slice) -> None:
    logit, expected, own, here, better = found
    width = columns.stop - columns.start
    logit, own, here = logit[: len(rows), :width], own[:width], here[:width]
    seen.expected += float(expected)
    seen.right[columns] = np.where(here, own, seen.right[columns])
    values = np.concatenate([seen.better_right[:, columns], [v[:width] for _, v in better]])
    numbers = np.concatenate([seen.better[:, columns], [r[:width] for r, _ in better]])
    order = np.argsort(-values, axis=0, kind="stable")[:BETTER]
    seen.better_right[:, columns] = np.take_along_axis(values, order, axis=0)
    seen.better[:, columns] = np.take_along_axis(numbers, order, axis=0)
    flat = logit.ravel()
    likely = np.flatnonzero(flat > LEAST)
    histogram = np.histogram(1 / (1 + np.exp(-flat[likely])), BINS, (0, 1))[0]
    histogram[0] += int(np.isfinite(flat).sum()) - len(likely)
    seen.histogram += histogram
    likely = likely[flat[likely] > seen.best.floor]
    pair = np.stack([rows[likely // width], likely % width + columns.start], axis=1)
    seen.best.add(flat[likely], pair)
