"""Draws of a pair's similarity from VACSR's posterior."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.ops.pairwise import count
from vacsr_jax.pair.base import Item


class Samples(NamedTuple):
    """Draws of the match probability sigmoid(m(z)), z ~ p(z | s), of every pair.

    Attributes:
      draws: [draws, images, texts] in (0, 1).
      mean: [images, texts], over the draws.
      low, high: [images, texts], the ends of the central credible interval.
    """

    draws: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sample_similarity(
    model: ImageTextModel, params, key: jax.Array, images: Item, texts: Item, n: int, level: float = 0.9
) -> Samples:
    """Draws every pair's similarity n times; `images` and `texts` are items.

    Components are drawn exactly (one-hot, probability alpha), not by the Gumbel-softmax of training. `level` is the
    probability inside the credible interval.

    Raises:
      ValueError: if the model has no latent, n < 1, or `level` is not inside (0, 1).
    """
    if not model.pair.has_latent:
        raise ValueError(f"{type(model.pair).__name__} has no latent to sample; load a model of method vacsr")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n, level: got {n} and {level}, expected n >= 1 and 0 < level < 1")
    rows = [
        _draw_row(params["pair"], k, jax.tree.map(lambda x, i=i: x[i : i + 1], images), texts, model, n)
        for i, k in enumerate(jax.random.split(key, count(images)))
    ]
    draws = np.concatenate(jax.device_get(rows), axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Samples(draws, draws.mean(axis=0), low, high)


@functools.partial(jax.jit, static_argnames=("model", "n"))
def _draw_row(pair_params, key, image, texts, model: ImageTextModel, n: int) -> jax.Array:
    logits: Any = model.pair.apply(
        {"params": pair_params}, key, image, jax.tree.map(jnp.asarray, texts), n, method="sample"
    )
    return jax.nn.sigmoid(logits)
