"""The losses of the baselines, InfoNCE and the sigmoid loss, on batch logits, with several positives and padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Terms = dict[str, Float[Array, ""]]
# How much a pair is a match: 1 or 0 as annotated, or in between if images were mixed or labels smoothed.
Labels = Float[Array, "n m"] | Bool[Array, "n m"]


def check_batch(images: int, texts: int) -> None:
    """Raises ValueError for fewer than two images or two texts: without negatives, nothing is learned."""
    if min(images, texts) < 2:
        raise ValueError(f"batch: got {images} images and {texts} texts, expected at least 2 of each; raise batch_size")


def infonce(logits: Float[Array, "n m"], labels: Labels, valid: Bool[Array, "n m"]) -> tuple[Float[Array, ""], Terms]:
    """Mean of the cross-entropies of rows and of columns; van den Oord et al. 2018, Radford et al. 2021.

    The target of a row (or column) is its labels divided by their sum, which is uniform over its positives. Invalid
    pairs are ignored. Rows and columns whose labels sum to 0 are left out of the means.

    Raises:
      ValueError: for a batch with fewer than two images or texts.
    """
    check_batch(*logits.shape)

    def one_way(axis):
        log_p = jax.nn.log_softmax(jnp.where(valid, logits, -1e30), axis=axis)
        target = jnp.where(valid, labels, 0).astype(logits.dtype)
        total = target.sum(axis=axis)
        entropy = -jnp.sum(jnp.where(target > 0, target * log_p, 0), axis=axis)
        entropy = jnp.where(total > 0, entropy / jnp.where(total > 0, total, 1), 0)
        return jnp.sum(entropy) / jnp.maximum(jnp.sum(total > 0), 1)

    image_to_text, text_to_image = one_way(1), one_way(0)
    loss = (image_to_text + text_to_image) / 2
    return loss, {"loss": loss, "i2t": image_to_text, "t2i": text_to_image}


def cross_entropy(
    logits: Float[Array, "n m"], labels: Labels, valid: Bool[Array, "n m"]
) -> tuple[Float[Array, ""], Terms]:
    """Softmax cross-entropy of each image over the texts, mean over images, for texts that are classes.

    It is the image-to-text half of `infonce`.

    Raises:
      ValueError: for a batch with fewer than two images or texts.
    """
    _, terms = infonce(logits, labels, valid)
    return terms["i2t"], {"loss": terms["i2t"]}


def sigmoid(logits: Float[Array, "n m"], labels: Labels, valid: Bool[Array, "n m"]) -> tuple[Float[Array, ""], Terms]:
    """Binary cross-entropy of every pair, summed over pairs and divided by the number of images; Zhai et al. 2023.

    Raises:
      ValueError: for a batch with fewer than two images or texts.
    """
    check_batch(*logits.shape)
    per_pair = binary_cross_entropy(logits, jnp.asarray(labels, logits.dtype))
    loss = jnp.sum(jnp.where(valid, per_pair, 0)) / jnp.maximum(jnp.sum(valid.any(axis=1)), 1)
    return loss, {"loss": loss}


def binary_cross_entropy(logits: Float[Array, "n m"], labels: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """-y log p - (1 - y) log(1 - p), p = sigmoid(logit), of every pair; no reduction."""
    return labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)
