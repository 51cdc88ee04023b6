"""Sums over pairs, with the gradient in the same pass over the tiles: nothing of a tile is stored or computed twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.ops.pairwise import split, tile_shape

Tree = Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_pairs(
    function: Callable[..., tuple[Array, Tree, Tree]],
    tile_pairs: int,
    params: Tree,
    images: Float[Array, "n d"],
    texts: Float[Array, "m d"],
    per_pair: Tree,
) -> tuple[Array, Tree, Tree]:
    """Sums a function of tiles, (params, images [r d], texts [c d], per_pair [r c ...]) -> (sum, sums, tree of [r c]).

    Returns the sum over all n x m pairs; further sums, a tree of scalars; and the tree [n m]. Only the first sum has a
    gradient, with respect to params, images and texts. The weight of every pair is known beforehand, so the gradient is
    computed together with the sum, and the backward pass only scales it; rematerialization would compute every tile
    again. Grids are padded with zeros in `per_pair`, and `function` must add nothing for these.
    """
    return _pass(function, tile_pairs, params, images, texts, per_pair, gradient=False)[0]


def _forward(function, tile_pairs, params, images, texts, per_pair):
    return _pass(function, tile_pairs, params, images, texts, per_pair, gradient=True)


def _backward(function, tile_pairs, gradients, cotangent):
    scale = cotangent[0]
    return (*jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients), None)


sum_pairs.defvjp(_forward, _backward)


def _pass(function, tile_pairs, params, images, texts, per_pair, *, gradient: bool):
    n, m = len(images), len(texts)
    rows, columns = tile_shape(n, m, tile_pairs)
    text_tiles = split(texts, columns)

    def summed(params, image_tile, text_tile, pairs):
        total, sums, aux = function(params, image_tile, text_tile, pairs)
        return total, ((total, sums), aux)

    def one_tile(image_tile, carry, tile):
        sums, in_params, in_images = carry
        text_tile, pairs = tile
        inputs = (params, image_tile, text_tile)
        if not gradient:
            new, aux = summed(*inputs, pairs)[1]
            return (add(sums, new), None, None), (aux, None)
        slope = jax.grad(summed, argnums=(0, 1, 2), has_aux=True)
        (of_params, of_images, of_texts), (new, aux) = slope(*inputs, pairs)
        return (add(sums, new), add(in_params, of_params), in_images + of_images), (aux, of_texts)

    def one_row_block(carry, block):
        image_tile, per_row = block
        sums, in_params, in_texts = carry
        tiles = jax.tree.map(lambda x: jnp.moveaxis(split(jnp.moveaxis(x, 1, 0), columns), 2, 1), per_row)
        start = (sums, in_params, jnp.zeros_like(image_tile) if gradient else None)
        tile = functools.partial(one_tile, image_tile)
        (sums, in_params, in_images), (aux, of_texts) = jax.lax.scan(tile, start, (text_tiles, tiles))
        aux = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0).reshape(rows, -1)[:, :m], aux)
        return (sums, in_params, in_texts + of_texts if gradient else None), (aux, in_images)

    blocks = (split(images, rows), jax.tree.map(lambda x: split(x, rows), per_pair))
    first = jax.tree.map(lambda x: x[0], (blocks, text_tiles))
    like = jax.eval_shape(lambda b, t: summed(params, b[0], t, jax.tree.map(lambda x: x[:, :columns], b[1]))[1], *first)
    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
    start: Tree = (sums, zeros if gradient else None, jnp.zeros_like(text_tiles) if gradient else None)
    (sums, in_params, in_texts), (aux, in_images) = jax.lax.scan(one_row_block, start, blocks)
    out = (*sums, jax.tree.map(lambda x: x.reshape(-1, m)[:n], aux))
    if not gradient:
        return out, None
    in_params = jax.tree.map(lambda g, x: g.astype(x.dtype), in_params, params)
    in_images, in_texts = (x.reshape(-1, x.shape[-1])[:k] for x, k in ((in_images, n), (in_texts, m)))
    return out, (in_params, in_images, in_texts)


def add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)
