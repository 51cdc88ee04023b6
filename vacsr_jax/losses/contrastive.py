"""The baselines' losses: InfoNCE and the sigmoid loss, on logits of a batch, with several positives and padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Terms = dict[str, Float[Array, ""]]


def check_batch(images: int, texts: int) -> None:
    """Raises ValueError unless a batch has at least two images and two texts: without negatives nothing is learned."""
    if min(images, texts) < 2:
        raise ValueError(f"batch: got {images} images and {texts} texts, expected at least 2 of each; raise batch_size")


def infonce(
    logits: Float[Array, "n m"], positives: Bool[Array, "n m"], valid: Bool[Array, "n m"]
) -> tuple[Float[Array, ""], Terms]:
    """Symmetric cross-entropy of each row and each column, half each; van den Oord et al. 2018, Radford et al. 2021.

    The target is uniform over the positives of a row (or column). Invalid pairs take no part; rows and columns
    without a valid positive are left out of the means.

    Raises:
      ValueError: for a batch of one.
    """
    check_batch(*logits.shape)

    def one_way(axis):
        log_p = jax.nn.log_softmax(jnp.where(valid, logits, -1e30), axis=axis)
        target = positives & valid
        count = target.sum(axis=axis)
        entropy = -jnp.sum(jnp.where(target, log_p, 0), axis=axis) / jnp.maximum(count, 1)
        return jnp.sum(entropy) / jnp.maximum(jnp.sum(count > 0), 1)

    image_to_text, text_to_image = one_way(1), one_way(0)
    loss = (image_to_text + text_to_image) / 2
    return loss, {"loss": loss, "i2t": image_to_text, "t2i": text_to_image}


def cross_entropy(
    logits: Float[Array, "n m"], positives: Bool[Array, "n m"], valid: Bool[Array, "n m"]
) -> tuple[Float[Array, ""], Terms]:
    """Softmax cross-entropy of each image over the texts: the image's half of `infonce`, for texts that are classes.

    Raises:
      ValueError: for a batch of one.
    """
    _, terms = infonce(logits, positives, valid)
    return terms["i2t"], {"loss": terms["i2t"]}


def sigmoid(
    logits: Float[Array, "n m"], positives: Bool[Array, "n m"], valid: Bool[Array, "n m"]
) -> tuple[Float[Array, ""], Terms]:
    """Binary cross-entropy of every pair, summed over pairs and divided by the number of images; Zhai et al. 2023.

    Raises:
      ValueError: for a batch of one.
    """
    check_batch(*logits.shape)
    per_pair = jax.nn.softplus(jnp.where(positives, -logits, logits))
    loss = jnp.sum(jnp.where(valid, per_pair, 0)) / jnp.maximum(jnp.sum(valid.any(axis=1)), 1)
    return loss, {"loss": loss}
