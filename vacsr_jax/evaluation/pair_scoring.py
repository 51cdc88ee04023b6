"""Pairs of embeddings scored in bulk: every pair, the best k of every row, or chosen pairs; numpy in, numpy out.

The texts stand on the device once, images pass through in blocks of rows, and a block is worked on in tiles that suit
the device. Matrices multiply in the precision of the folded model (`pair_models.in_precision`), sums are float32.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.models.pair_models import (
    Folded,
    FoldedAdapter,
    FoldedGaussian,
    PairScores,
    in_precision,
    score_listed,
    score_tile,
    score_tile_fused,
    score_vectors,
    without_uncertainty,
)
from vacsr_jax.models.propensity import FoldedPropensity
from vacsr_jax.ops import fused_scores
from vacsr_jax.ops.pairwise import even_part, map_pairs, split, tile_shape

CACHE = 8 << 20  # bytes of a tile on a CPU: rates are flat from a third of it to it, and fall by a third at four times
MEMORY_SHARE = 1 / 16  # of an accelerator's memory for a tile: two products of it alive, and room for the rest
MOST_PAIRS = 1 << 18  # more fill no accelerator better
BLOCK_PAIRS = 1 << 22  # pairs whose results the device holds before they go to the host
STAGE_PAIRS = 4096  # random pairs that a linear first stage is fitted to
DELAY = 3  # seconds before a progress bar appears


class TopK(NamedTuple):
    """The best k texts of every image, best first.

    Attributes:
      logit: [n, k] what ranked them: the logit, or the match score of a model that has one.
      index: int32 [n, k] into the texts.
      uncertainty: [n, k], or None for a model without a latent.
    """

    logit: np.ndarray
    index: np.ndarray
    uncertainty: np.ndarray | None


def score_all(folded: Folded, images: np.ndarray, texts: np.ndarray, *, tile_pairs: int | None = None) -> PairScores:
    """Scores of all pairs of prepared embeddings [n d], [m d]: float32 [n m]; the uncertainty in the same pass."""
    size = tile_pairs or pairs_per_tile(folded)
    score = functools.partial(_score_rows, folded, tile_pairs=size, score=tile_scorer(folded))
    blocks = list(_row_blocks(score, images, texts, "scoring"))
    return jax.tree.map(lambda *x: np.concatenate(x), *blocks)


def top_k(folded: Folded, images: np.ndarray, texts: np.ndarray, k: int, *, tile_pairs: int | None = None) -> TopK:
    """The k best of m texts [m d] for every one of n images [n d], without an n x m matrix anywhere.

    Every row's best are kept tile by tile. Uncertainties are computed for the n k pairs that are returned and for no
    other, so ranking costs what scores alone cost. Swap the two sides to rank images for texts. Of equal scores the
    one of smaller index is better.

    Raises:
      ValueError: if k is not between 1 and m.
    """
    if not 1 <= k <= len(texts):
        raise ValueError(f"top_k: got k = {k}, expected 1 to {len(texts)} (the number of texts)")
    alone = without_uncertainty(folded)
    size = tile_pairs or pairs_per_tile(alone)
    best = functools.partial(_best_rows, alone, k=k, tile_pairs=size, score=tile_scorer(alone))
    blocks = list(_row_blocks(best, images, texts, "ranking"))
    logit, index = (np.concatenate(x) for x in zip(*blocks, strict=True))
    has_spread = gives_uncertainty(folded)
    return TopK(logit, index, score_candidates(folded, images, texts, index).uncertainty if has_spread else None)


def gives_uncertainty(folded: Folded) -> bool:
    """Whether the scores of pairs come with an uncertainty."""
    if isinstance(folded, FoldedPropensity):
        return gives_uncertainty(folded.match)
    return folded.spread_kernel is not None if isinstance(folded, FoldedAdapter) else isinstance(folded, FoldedGaussian)


def score_candidates(folded: Folded, images: np.ndarray, texts: np.ndarray, candidates: np.ndarray) -> PairScores:
    """Scores [n, k] of every image with the k texts that `candidates` [n, k] names by index."""
    if candidates.ndim != 2 or len(candidates) != len(images):
        raise ValueError(f"candidates: got {candidates.shape}, expected ({len(images)}, k), indices of texts")
    if candidates.size and not 0 <= candidates.min() <= candidates.max() < len(texts):
        raise ValueError(
            f"candidates: got indices from {candidates.min()} to {candidates.max()}, expected 0 to {len(texts) - 1}"
        )
    score = functools.partial(_score_candidates, folded, tile_pairs=pairs_per_tile(folded))
    blocks = list(_row_blocks(score, images, texts, "re-ranking", candidates))
    return jax.tree.map(lambda *x: np.concatenate(x), *blocks)


def rerank(folded: Folded, images: np.ndarray, texts: np.ndarray, candidates: np.ndarray) -> TopK:
    """The second of two stages: the candidates [n, k] of any first stage, in the order of their scores."""
    scores = score_candidates(folded, images, texts, candidates)
    order = np.argsort(-scores.by_match(), axis=1, kind="stable")
    logit, index, spread = (
        None if x is None else np.take_along_axis(x, order, axis=1)
        for x in (scores.by_match(), candidates.astype(np.int32), scores.uncertainty)
    )
    return TopK(logit, index, spread)


def linear_stage(folded: FoldedAdapter, images: np.ndarray, texts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Weights w [d] of a first stage for an adapter: w . (v * t) = (w * v) . t, which any inner-product store ranks by.

    The mean gradient of the score in the similarity vector over `STAGE_PAIRS` random pairs of the two sides: the best
    linear approximation where that vector is Gaussian (Stein's lemma). An adapter learns no cosine, so the cosine of
    its embeddings is no first stage for it.
    """
    rng = np.random.default_rng(seed)
    pairs = images[rng.integers(len(images), size=STAGE_PAIRS)] * texts[rng.integers(len(texts), size=STAGE_PAIRS)]
    return np.asarray(_mean_slope(without_uncertainty(folded), pairs[:, None]))


@jax.jit
def _mean_slope(folded: FoldedAdapter, similarity: jax.Array) -> jax.Array:
    return jax.grad(lambda s: jnp.sum(score_vectors(folded, s).logit))(similarity).mean(axis=(0, 1))


def pairs_per_tile(folded: Folded, device: Any = None) -> int:
    """Pairs of a tile that suit the device: as many as its cache (a CPU) or a share of its memory holds.

    A pair holds its similarity vector, its hidden layer in float32 and again in the products' precision, and its
    log-variances.
    """
    if isinstance(folded, FoldedPropensity):
        return pairs_per_tile(folded.match, device)
    if not isinstance(folded, FoldedAdapter):
        return 1 << 20
    d, h = folded.trunk_kernel.shape
    size = folded.trunk_kernel.dtype.itemsize
    spread = 0 if folded.spread_kernel is None else size * h + 4 * folded.spread_kernel.shape[1]
    return max(1, min(MOST_PAIRS, _tile_bytes(device or jax.devices()[0]) // (size * d + 4 * h + spread)))


def tile_scorer(folded: Folded) -> Callable[[Folded, jax.Array, jax.Array], PairScores]:
    """What scores a tile: `score_tile`, compiled by XLA; on a GPU the fused kernel, where it fits and gives the same.

    A machine on which the kernel fails, or differs from XLA's result on a few pairs, is warned about once and uses XLA.
    """
    if jax.default_backend() != "gpu" or not isinstance(folded, FoldedAdapter) or folded.decoder is not None:
        return score_tile
    d, h = folded.trunk_kernel.shape
    components = 0 if folded.spread_kernel is None else len(folded.weights)
    fused = fused_scores.fits(d, h) and _kernel_agrees(d, h, components, jnp.dtype(folded.trunk_kernel.dtype))
    return score_tile_fused if fused else score_tile


@functools.cache
def _kernel_agrees(d: int, h: int, components: int, dtype: jnp.dtype) -> bool:
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    spread = (normal(h, components * d, scale=h**-0.5), normal(components * d), jnp.full(components, 1 / components))
    folded = FoldedAdapter(normal(d, h, scale=d**-0.5), normal(h), normal(h, 1, scale=h**-0.5), normal(1))
    if components:
        folded = folded._replace(spread_kernel=spread[0], spread_bias=spread[1], weights=spread[2])
    folded, images, texts = in_precision(folded, dtype), normal(9, d), normal(17, d)
    try:
        ours, plain = jax.device_get((score_tile_fused(folded, images, texts), score_tile(folded, images, texts)))
    except Exception as error:  # whatever a compiler or driver raises: the kernel is an option, not a need
        warnings.warn(f"the fused GPU kernel does not run here and XLA's form is used: {error}", stacklevel=2)
        return False
    differ = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True))
    if differ > 0.02:
        warnings.warn(f"the fused GPU kernel is off by {differ:.3f} here and XLA's form is used", stacklevel=2)
    return differ <= 0.02


def _tile_bytes(device) -> int:
    if device.platform == "cpu":
        return CACHE
    memory = (device.memory_stats() or {}).get("bytes_limit", 16 << 30)
    return int(memory * MEMORY_SHARE)


def _row_blocks(
    function: Callable, images: np.ndarray, texts: np.ndarray, doing: str, *per_image: np.ndarray
) -> Iterator[Any]:
    """`function(images [r d], texts, *per_image [r ...])` by blocks of rows that share a shape, as numpy."""
    n, width = len(images), len(per_image[0][0]) if per_image else len(texts)
    rows = even_part(n, max(1, BLOCK_PAIRS // max(1, width)))
    texts = jnp.asarray(texts)
    with tqdm(total=n, desc=doing, unit=" rows", delay=DELAY, leave=False) as bar:
        for start in range(0, n, rows):
            stop = min(n, start + rows)
            block = [_pad_to(x[start:stop], rows) for x in (images, *per_image)]
            found = function(block[0], texts, *block[1:])
            yield jax.tree.map(lambda x, length=stop - start: np.asarray(x[:length]), jax.device_get(found))
            bar.update(stop - start)


def _pad_to(x: np.ndarray, size: int) -> np.ndarray:
    # Every block has one shape, so that the function compiles once.
    return np.pad(x, [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)])


@functools.partial(jax.jit, static_argnames=("tile_pairs", "score"))
def _score_rows(folded: Folded, images, texts, *, tile_pairs: int, score: Callable) -> PairScores:
    return map_pairs(lambda v, t, _: score(folded, v, t), images, texts, tile_pairs=tile_pairs)


@functools.partial(jax.jit, static_argnames=("k", "tile_pairs", "score"))
def _best_rows(
    folded: Folded, images, texts, *, k: int, tile_pairs: int, score: Callable
) -> tuple[jax.Array, jax.Array]:
    m = len(texts)
    rows, columns = tile_shape(len(images), m, tile_pairs)
    text_tiles, index_tiles = split(texts, columns), split(jnp.arange(m), columns)
    in_use = split(jnp.ones(m, bool), columns)

    def one_row_block(image_tile):
        def one_tile(best, tile):
            text_tile, index, used = tile
            logit = jnp.where(used, score(folded, image_tile, text_tile).by_match(), -jnp.inf)
            both = jnp.concatenate([best[0], logit], axis=1)
            indices = jnp.concatenate([best[1], jnp.broadcast_to(index, logit.shape)], axis=1)
            logit, where = jax.lax.top_k(both, k)
            return (logit, jnp.take_along_axis(indices, where, axis=1)), None

        nothing = (jnp.full((rows, k), -jnp.inf, jnp.float32), jnp.zeros((rows, k), jnp.int32))
        return jax.lax.scan(one_tile, nothing, (text_tiles, index_tiles, in_use))[0]

    found = jax.lax.map(one_row_block, split(images, rows))
    return jax.tree.map(lambda x: x.reshape(-1, k)[: len(images)], found)


@functools.partial(jax.jit, static_argnames="tile_pairs")
def _score_candidates(folded: Folded, images, texts, candidates, *, tile_pairs: int) -> PairScores:
    rows, columns = tile_shape(*candidates.shape, tile_pairs)
    k = candidates.shape[1]
    columns_first = split(candidates.T, columns)  # [tiles, columns, n]
    tiles = split(jnp.moveaxis(columns_first, 2, 0), rows)  # [blocks, rows, tiles, columns]

    def one_row_block(block):
        image_tile, indices = block
        out = jax.lax.map(lambda j: score_listed(folded, image_tile, texts[j]), jnp.moveaxis(indices, 1, 0))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :k], out)

    found = jax.lax.map(one_row_block, (split(images, rows), tiles))
    return jax.tree.map(lambda x: x.reshape(-1, k)[: len(images)], found)
