"""Augmentations of a batch on the device: mixing images in pairs, and dropping image tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mix_images(
    key: jax.Array, pixels: Float[Array, "b s s 3"], probability: float
) -> tuple[Float[Array, "b s s 3"], Float[Array, " b"]]:
    """Mixes each image, with `probability`, with the image at the same position from the end of the batch.

    Half of them are mixed by mixup (Zhang et al. 2018), a weighted sum. The other half are mixed by CutMix (Yun et al.
    2019): a rectangle with a random centre comes from the other image. Shares are drawn from Beta(2, 2). Returns the
    images and the share that each one keeps, 1 if it is not mixed; CutMix keeps its share of the pixels.
    """
    b, size = pixels.shape[:2]
    keys = jax.random.split(key, 4)
    share = jax.random.beta(keys[0], 2.0, 2.0, (b,))
    mixed, cut = jax.random.bernoulli(keys[1], probability, (b,)), jax.random.bernoulli(keys[2], 0.5, (b,))
    half = size * jnp.sqrt(1 - share)[:, None] / 2
    centre = jax.random.uniform(keys[3], (b, 2)) * size
    places = jnp.arange(size) + 0.5
    rows, columns = (jnp.abs(places - centre[:, i, None]) < half for i in range(2))
    box = (rows[:, :, None] & columns[:, None, :]).astype(pixels.dtype)
    own = jnp.where(cut[:, None, None], 1 - box, share[:, None, None])
    own = jnp.where(mixed[:, None, None], own, 1)
    return own[..., None] * pixels + (1 - own[..., None]) * pixels[::-1], own.mean(axis=(1, 2))


def keep_tokens(key: jax.Array, shape: tuple[int, int], rate: float) -> Bool[Array, "b l"]:
    """Draws which tokens of each item to keep: size augmentation (Chen et al. 2021), with u ~ U(0, 1) for each item.

    Items with u > rate lose each token with probability rate u. An item that would lose all its tokens keeps them all.
    """
    strength, each = jax.random.split(key)
    u = jax.random.uniform(strength, (shape[0], 1))
    keep = jax.random.uniform(each, shape) >= jnp.where(u > rate, rate * u, 0)
    return keep | ~keep.any(axis=1, keepdims=True)
