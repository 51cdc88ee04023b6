"""The k best documents of a block of codes, found from their high bytes and a few of their low bytes."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32, Int, Int8, Int32

AXIS = "documents"
GROUP = 128  # neighbours of which one maximum is taken first; see `top_k`
TILE = 1 << 19  # numbers converted at a time on a CPU: 2 MB, which stay in a core's cache


class Block(NamedTuple):
    """Codes n = 256 high + low of documents, all on one mesh; the vector is `scale` n, see `codes`.

    Attributes:
      rest: |scale low|, the length of what the high bytes leave out.
    """

    high: Int8[jax.Array, "n d"]
    low: Int8[jax.Array, "n d"]
    scale: Float32[jax.Array, " n"]
    rest: Float32[jax.Array, " n"]


class Found(NamedTuple):
    """The best documents so far of each query, best first.

    Attributes:
      missed: no document whose low bytes were not read has a score above this.
    """

    scores: Float32[jax.Array, "q k"]
    numbers: Int32[jax.Array, "q k"]
    missed: Float32[jax.Array, " q"]


@functools.partial(jax.jit, static_argnames=("mesh", "candidates"))
def merge_block(best: Found, queries, block: Block, bias, start, count, *, mesh: Mesh, candidates: int | None) -> Found:
    """Merges the k best so far with those of a block of documents.

    The first document of the block has the number `start`, and `count` documents are left. `bias` [rows of the block]
    is added to its scores; None adds nothing. The low bytes of `candidates` documents are read; None reads all.
    """
    k = best.scores.shape[1]
    few = candidates is not None and 4 * candidates <= len(block.high) // mesh.size

    def local(queries, block, bias):
        first = jax.lax.axis_index(AXIS) * len(block.high)
        used = first + jnp.arange(len(block.high)) < count
        if candidates is not None and few:
            found = _best(queries, block, bias, used, k, candidates)
        else:
            found = _all_scores(queries, block, bias, used, k)
        return found.scores, first + found.numbers, found.missed[:, None]

    out = P(None, AXIS)
    search = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(out, out, out))
    scores, numbers, missed = search(queries, block, bias)
    # Earlier blocks and earlier devices come first, so equal scores keep the order of the documents.
    scores, kept = jax.lax.top_k(jnp.concatenate([best.scores, scores], axis=1), k)
    numbers = jnp.take_along_axis(jnp.concatenate([best.numbers, start + numbers], axis=1), kept, axis=1)
    return Found(scores, numbers, jnp.maximum(best.missed, missed.max(axis=1)))


def _all_scores(queries, block: Block, bias, used, k: int) -> Found:
    """The k best of all scores, in float32."""

    def product(high, low):
        return _dot(queries, 256 * high.astype(jnp.float32) + low.astype(jnp.float32))

    scores = _by_tiles(product, block.high, block.low) * block.scale
    scores = jnp.where(used, scores if bias is None else scores + bias, -jnp.inf)
    return Found(*top_k(scores, min(k, len(block.high))), jnp.full(len(queries), -jnp.inf))


def _best(queries, block: Block, bias, used, k: int, candidates: int) -> Found:
    """The k best of the documents with the largest upper bounds of a score, and the largest bound of the others.

    With q' the query as it is multiplied, q . (256 high + low) scale is at most 256 q' . high scale + |q'| rest +
    |q - q'|, the vectors being of unit length, but for rounding errors of float32.
    """
    # One query is bound by the memory, and multiplied as it is; many go to a machine's half-precision units.
    multiplied = queries if len(queries) == 1 else queries.astype(jnp.bfloat16)
    scores = _by_tiles(lambda high: _dot(multiplied, high.astype(multiplied.dtype)), block.high)
    difference = jnp.linalg.norm(queries - multiplied.astype(jnp.float32), axis=1, keepdims=True)
    slack = difference + queries.shape[1] * 2.0**-22
    bound = 256 * scores * block.scale + (1 + difference) * block.rest + slack
    bound = jnp.where(used, bound if bias is None else bound + bias, -jnp.inf)
    bounds, rows = top_k(bound, candidates)
    rows = jnp.sort(rows, axis=1)  # equal scores keep the order of the documents
    codes = 256 * block.high[rows].astype(jnp.float32) + block.low[rows].astype(jnp.float32)
    # A sum, not a product of matrices: that may add up equal rows in unequal order.
    scores = jnp.sum(codes * queries[:, None], axis=2) * block.scale[rows]
    scores = jnp.where(used[rows], scores if bias is None else scores + bias[rows], -jnp.inf)
    scores, place = jax.lax.top_k(scores, k)
    # The smallest bound by `min`: a slice of the last would make XLA sort all of them, in three times the whole time.
    return Found(scores, jnp.take_along_axis(rows, place, axis=1), bounds.min(axis=1))


def _by_tiles(function, *arrays) -> Float[jax.Array, "q n"]:
    """`function` of rows, giving [q, rows]; on a CPU a tile at a time, so that what it converts stays in the cache."""
    n, d = arrays[0].shape
    if jax.default_backend() != "cpu":
        return function(*arrays)
    rows = math.gcd(n, 1 << max(0, (TILE // d).bit_length() - 1))
    tiles = [x.reshape(-1, rows, d) for x in arrays]
    found = jax.lax.map(lambda tile: function(*tile), tuple(tiles))
    return jnp.moveaxis(found, 0, 1).reshape(-1, n)


def _dot(queries, rows) -> Float[jax.Array, "q n"]:
    precision = jax.lax.Precision.HIGHEST  # an accelerator's default would round float32
    if len(queries) == 1:  # as a matrix and a vector, which is faster on CPUs than two matrices
        return jnp.dot(rows, queries[0], precision=precision)[None]
    axes = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(queries, rows, axes, precision=precision, preferred_element_type=jnp.float32)


def top_k(scores: Float[jax.Array, "q n"], k: int) -> tuple[Float[jax.Array, "q k"], Int[jax.Array, "q k"]]:
    """`jax.lax.top_k`, exact with ties, without sorting whole rows.

    The k best of a row lie in the k groups of 128 neighbours with the largest maxima. On a CPU this is four times as
    fast for n = 65,536 and k = 20.
    """
    q, n = scores.shape
    if n % GROUP or n // GROUP <= k:
        best, where = jax.lax.top_k(scores, k)
        return best, where
    groups = scores.reshape(q, n // GROUP, GROUP)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=2), k)[1], axis=1)
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(q, k * GROUP)
    best, place = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(chosen, place // GROUP, axis=1) * GROUP + place % GROUP
