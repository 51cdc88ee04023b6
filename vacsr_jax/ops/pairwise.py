"""Pairs in tiles: any function of image-text pairs over an n x m grid, in the memory of a tile instead of n x m x d."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

Tree = Any


class PairTerms(NamedTuple):
    """What the VACSR losses need of each pair in a training step; all [r, c].

    Attributes:
      score: m(mu_bar), the logit that inference would give; it decides which negatives are hard.
      logit: m(z) of one draw of z.
      kl: the upper bound on KL[p(z|s) || N(0, I)], nats.
      variance_loss: 1/2 error / u + 1/2 log u with label 1, mean over dimensions; the error is held constant.
    """

    score: Float[Array, "r c"]
    logit: Float[Array, "r c"]
    kl: Float[Array, "r c"]
    variance_loss: Float[Array, "r c"]


def similarity_vectors(images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> Float[Array, "r c d"]:
    """s_ij = v_i * t_j, the Hadamard product of every pair (Wei et al. 2026, section 3); its sum is the dot product."""
    return images[:, None, :] * texts[None, :, :]


def tile_shape(n: int, m: int, tile_pairs: int) -> tuple[int, int]:
    """Rows and columns of a tile of at most `tile_pairs` pairs, near a square (and a power of two) if both are long.

    A square needs the fewest embeddings for its pairs, and meets the diagonal least. Both sides of the grid are divided
    evenly, so that padding to whole tiles adds less than one row and one column per tile.

    Raises:
      ValueError: if a side is empty or `tile_pairs` is not positive.
    """
    if min(n, m, tile_pairs) < 1:
        raise ValueError(f"pairs: got a grid of {n} x {m} in tiles of {tile_pairs}; all three must be positive")
    side = 1 << tile_pairs.bit_length() // 2
    columns = even_part(m, min(tile_pairs, max(side, tile_pairs // n)))
    return even_part(n, max(1, tile_pairs // columns)), columns


def even_part(n: int, at_most: int) -> int:
    """The size of the parts when n is divided into equal parts of at most `at_most`, as few as possible."""
    return -(-n // -(-n // at_most))


def map_pairs(
    function: Callable[..., Tree],
    images: Tree,
    texts: Tree,
    per_pair: Tree = (),
    *,
    tile_pairs: int,
) -> Tree:
    """Applies `function(images [r ...], texts [c ...], per_pair [r c ...]) -> tree of [r c ...]` to the grid's tiles.

    `images` and `texts` are trees of arrays [n ...] and [m ...]. Returns the tree with leaves [n m ...]. The backward
    pass computes each tile again. Beyond inputs and outputs, both passes therefore need the memory of one tile only.
    Edges are padded with zeros, and the padding is cut off again.
    """
    n, m = count(images), count(texts)
    rows, columns = tile_shape(n, m, tile_pairs)
    if (rows, columns) == (n, m):
        return function(images, texts, per_pair)
    tiled_texts = split_tree(texts, columns)
    tile = jax.checkpoint(lambda image_tile, text_tile, noise: function(image_tile, text_tile, noise))

    def one_row_block(block):
        image_tile, per_row = block
        per_tile = jax.tree.map(lambda x: jnp.moveaxis(split(jnp.moveaxis(x, 1, 0), columns), 2, 1), per_row)
        out = jax.lax.map(lambda args: tile(image_tile, *args), (tiled_texts, per_tile))
        return jax.tree.map(lambda x: join(jnp.moveaxis(x, 1, 2), m).swapaxes(0, 1), out)

    blocks = (split_tree(images, rows), split_tree(per_pair, rows))
    return jax.tree.map(lambda x: join(x, n), jax.lax.map(one_row_block, blocks))


def count(items: Tree) -> int:
    """How many rows the arrays of a tree have."""
    return len(jax.tree.leaves(items)[0])


def split_tree(items: Tree, size: int) -> Tree:
    """`split` of every array of a tree."""
    return jax.tree.map(lambda x: split(x, size), items)


def split(x: Array, size: int) -> Array:
    """[n ...] -> [ceil(n / size) size ...], padded with zeros."""
    padding = [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, size, *x.shape[1:])


def join(x: Array, n: int) -> Array:
    """The inverse of `split`, without the padding."""
    return x.reshape(-1, *x.shape[2:])[:n]


def shard_pairs(
    function: Callable[..., Tree], mesh: Mesh, params: Tree, images: Tree, texts: Tree, per_pair: Tree = ()
) -> Tree:
    """Applies `function(params, images, texts, per_pair)` with the rows of images split over the mesh's data axis.

    Each device scores its own images against all texts. The texts are gathered once; nothing with a number per pair is
    sent between devices.
    """
    rows = P("data")
    # With check_vma=False the gradient of shared inputs is summed over devices once, at the end; otherwise per tile.
    sharded = jax.shard_map(function, mesh=mesh, in_specs=(P(), rows, P(), rows), out_specs=rows, check_vma=False)
    return sharded(params, images, texts, per_pair)
