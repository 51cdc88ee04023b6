"""Pairs of items scored in bulk: every pair, the best k of every row, or chosen pairs; numpy in, numpy out.

The texts stand on the device once, images pass through in blocks of rows, and a block is worked on in tiles that suit
the device. Matrices multiply in the precision of the scorer (`Scorer.in_precision`); sums are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.ops.pairwise import count, even_part, map_pairs, split, split_tree, tile_shape
from vacsr_jax.pair.base import Item, PairScores, Scorer

CACHE = 8 << 20  # bytes of a tile on a CPU: rates are flat from a third of it to it, and fall by a third at four times
MEMORY_SHARE = 1 / 16  # of an accelerator's memory for a tile: two products of it alive, and room for the rest
BLOCK_PAIRS = 1 << 22  # pairs whose results the device holds before they go to the host
DELAY = 3  # seconds before a progress bar appears


class TopK(NamedTuple):
    """The best k texts of every image, best first.

    Attributes:
      score: [n, k] what ranked them: the logit, or the match score of a model that has one.
      index: int32 [n, k] into the texts.
      uncertainty: [n, k], or None for a model without a latent.
    """

    score: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    uncertainty: np.ndarray | None


def score_all(scorer: Scorer, images: Item, texts: Item, *, tile_pairs: int | None = None) -> PairScores:
    """Scores of all pairs of n images and m texts: float32 [n m]; the uncertainty in the same pass."""
    size = tile_pairs or pairs_per_tile(scorer, images, texts)
    score = functools.partial(_score_rows, scorer, tile_pairs=size, score=scorer.tile_function())
    blocks = list(_row_blocks(score, images, texts, "scoring"))
    return jax.tree.map(lambda *x: np.concatenate(x), *blocks)


def top_k(scorer: Scorer, images: Item, texts: Item, k: int, *, tile_pairs: int | None = None) -> TopK:
    """The k best of m texts for every one of n images, without an n x m matrix anywhere.

    Every row's best are kept tile by tile. Uncertainties are computed for the n k pairs that are returned and for no
    other, so ranking costs what scores alone cost. Swap the two sides to rank images for texts. Of equal scores the
    one of smaller index is better.

    Raises:
      ValueError: if k is not between 1 and m.
    """
    if not 1 <= k <= count(texts):
        raise ValueError(f"top_k: got k = {k}, expected 1 to {count(texts)} (the number of texts)")
    alone = scorer.for_ranking()
    size = tile_pairs or pairs_per_tile(alone, images, texts)
    best = functools.partial(_best_rows, alone, k=k, tile_pairs=size, score=alone.tile_function())
    blocks = list(_row_blocks(best, images, texts, "ranking"))
    score, index = (np.concatenate(x) for x in zip(*blocks, strict=True))
    wanted = scorer.gives_uncertainty
    return TopK(score, index, score_candidates(scorer, images, texts, index).uncertainty if wanted else None)


def score_candidates(scorer: Scorer, images: Item, texts: Item, candidates: np.ndarray) -> PairScores:
    """Scores [n, k] of every image with the k texts that `candidates` [n, k] names by index.

    Raises:
      ValueError: if `candidates` has another shape, or an index that no text has.
    """
    n, m = count(images), count(texts)
    if candidates.ndim != 2 or len(candidates) != n:
        raise ValueError(f"candidates: got {candidates.shape}, expected ({n}, k), indices of texts")
    if candidates.size and not 0 <= candidates.min() <= candidates.max() < m:
        raise ValueError(
            f"candidates: got indices from {candidates.min()} to {candidates.max()}, expected 0 to {m - 1}"
        )
    if candidates.size < m and all(isinstance(x, np.ndarray) for x in jax.tree.leaves(texts)):
        # Only the texts that are asked for go to the device: for few pairs, all of them cost more than the scores.
        texts = jax.tree.map(lambda x: x[candidates.ravel()], texts)
        candidates = np.arange(candidates.size, dtype=np.int32).reshape(candidates.shape)
    score = functools.partial(_score_candidates, scorer, tile_pairs=pairs_per_tile(scorer, images, texts))
    blocks = list(_row_blocks(score, images, texts, "re-ranking", candidates))
    return jax.tree.map(lambda *x: np.concatenate(x), *blocks)


def rerank(scorer: Scorer, images: Item, texts: Item, candidates: np.ndarray) -> TopK:
    """The second of two stages: the candidates [n, k] of any first stage, in the order of their scores."""
    scores = score_candidates(scorer, images, texts, candidates)
    order = np.argsort(-scores.by_match(), axis=1, kind="stable")

    def in_order(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, order, axis=1)

    uncertainty = None if scores.uncertainty is None else in_order(scores.uncertainty)
    return TopK(in_order(scores.by_match()), in_order(candidates.astype(np.int32)), uncertainty)


def pairs_per_tile(scorer: Scorer, images: Item, texts: Item, device: Any = None) -> int:
    """Pairs of a tile that suit items and device: as many as its cache (a CPU) or a share of its memory holds."""
    return scorer.pairs_per_tile(_tile_bytes(device or jax.devices()[0]), images, texts)


def _tile_bytes(device) -> int:
    if device.platform == "cpu":
        return CACHE
    memory = (device.memory_stats() or {}).get("bytes_limit", 16 << 30)
    return int(memory * MEMORY_SHARE)


def _row_blocks(function: Callable, images: Item, texts: Item, doing: str, *per_image: np.ndarray) -> Iterator[Any]:
    """`function(images [r ...], texts, *per_image [r ...])` by blocks of rows that share a shape, as numpy."""
    n, width = count(images), len(per_image[0][0]) if per_image else count(texts)
    rows = even_part(n, max(1, BLOCK_PAIRS // max(1, width)))
    texts = jax.tree.map(jnp.asarray, texts)
    with tqdm(total=n, desc=doing, unit=" rows", delay=DELAY, leave=False) as bar:
        for start in range(0, n, rows):
            stop = min(n, start + rows)
            block, *others = jax.tree.map(lambda x, at=slice(start, stop): _pad_to(x[at], rows), (images, *per_image))
            found = function(block, texts, *others)
            yield jax.tree.map(lambda x, length=stop - start: np.asarray(x[:length]), jax.device_get(found))
            bar.update(stop - start)


def _pad_to(x: np.ndarray, size: int) -> np.ndarray:
    # Every block has one shape, so that the function compiles once.
    return np.pad(x, [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)])


@functools.partial(jax.jit, static_argnames=("tile_pairs", "score"))
def _score_rows(scorer: Scorer, images, texts, *, tile_pairs: int, score: Callable) -> PairScores:
    return map_pairs(lambda v, t, _: score(scorer, v, t), images, texts, tile_pairs=tile_pairs)


@functools.partial(jax.jit, static_argnames=("k", "tile_pairs", "score"))
def _best_rows(
    scorer: Scorer, images, texts, *, k: int, tile_pairs: int, score: Callable
) -> tuple[jax.Array, jax.Array]:
    n, m = count(images), count(texts)
    rows, columns = tile_shape(n, m, tile_pairs)
    text_tiles, index_tiles = split_tree(texts, columns), split(jnp.arange(m), columns)
    in_use = split(jnp.ones(m, bool), columns)

    def one_row_block(image_tile):
        def one_tile(best, tile):
            text_tile, index, used = tile
            logit = jnp.where(used, score(scorer, image_tile, text_tile).by_match(), -jnp.inf)
            both = jnp.concatenate([best[0], logit], axis=1)
            indices = jnp.concatenate([best[1], jnp.broadcast_to(index, logit.shape)], axis=1)
            logit, where = jax.lax.top_k(both, k)
            return (logit, jnp.take_along_axis(indices, where, axis=1)), None

        nothing = (jnp.full((rows, k), -jnp.inf, jnp.float32), jnp.zeros((rows, k), jnp.int32))
        return jax.lax.scan(one_tile, nothing, (text_tiles, index_tiles, in_use))[0]

    found = jax.lax.map(one_row_block, split_tree(images, rows))
    return jax.tree.map(lambda x: x.reshape(-1, k)[:n], found)


@functools.partial(jax.jit, static_argnames="tile_pairs")
def _score_candidates(scorer: Scorer, images, texts, candidates, *, tile_pairs: int) -> PairScores:
    n, k = candidates.shape
    rows, columns = tile_shape(n, k, tile_pairs)
    columns_first = split(candidates.T, columns)  # [tiles, columns, n]
    tiles = split(jnp.moveaxis(columns_first, 2, 0), rows)  # [blocks, rows, tiles, columns]

    def one_row_block(block):
        image_tile, indices = block
        out = jax.lax.map(
            lambda j: scorer.score_listed(image_tile, jax.tree.map(lambda x: x[j], texts)), jnp.moveaxis(indices, 1, 0)
        )
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :k], out)

    found = jax.lax.map(one_row_block, (split_tree(images, rows), tiles))
    return jax.tree.map(lambda x: x.reshape(-1, k)[: count(images)], found)
