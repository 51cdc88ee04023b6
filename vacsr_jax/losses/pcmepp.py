"""The PCME++ objective; Chun 2024, "Improved Probabilistic Image-Text Representations"."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vacsr_jax.losses.contrastive import Labels, Terms, binary_cross_entropy, check_batch

VIB_LIMIT = 1e4  # a larger divergence is left out of the step, as in the authors' code


def pcmepp(
    logits: Float[Array, "n m"],
    images: Float[Array, "n e"],
    texts: Float[Array, "m e"],
    labels: Labels,
    valid: Bool[Array, "n m"],
    *,
    pseudo_positives: float,
    vib: float,
) -> tuple[Float[Array, ""], Terms]:
    """2 L + pseudo_positives (L_rows + L_columns) + vib (KL_images + KL_texts).

    L is the binary cross-entropy, mean over valid pairs. L_rows has more positives: every text that an image scores at
    least as high as the text with the image's largest label. L_columns does the same for every text (`pseudo_labels`).
    Each KL is KL[N(mu, sigma^2) || N(0, I)], mean over items and dimensions. `images` and `texts` hold mu and
    log sigma^2.

    Raises:
      ValueError: for a batch with fewer than two images or texts.
    """
    check_batch(*logits.shape)
    labels = jnp.asarray(labels, logits.dtype)

    def mean_loss(labels):
        return jnp.sum(jnp.where(valid, binary_cross_entropy(logits, labels), 0)) / jnp.maximum(jnp.sum(valid), 1)

    kl = mean_kl(images) + mean_kl(texts)
    parts = {
        "match": mean_loss(labels),
        "pseudo": mean_loss(pseudo_labels(logits, labels, valid))
        + mean_loss(pseudo_labels(logits.T, labels.T, valid.T).T),
        "vib": jnp.where(kl < VIB_LIMIT, kl, 0),
    }
    loss = 2 * parts["match"] + pseudo_positives * parts["pseudo"] + vib * parts["vib"]
    return loss, {"loss": loss, **parts}


def pseudo_labels(
    logits: Float[Array, "n m"], labels: Float[Array, "n m"], valid: Bool[Array, "n m"]
) -> Float[Array, "n m"]:
    """The labels, but the row's largest label wherever the logit is at least as large as at that label."""
    largest = jnp.argmax(jnp.where(valid, labels, -1), axis=1)[:, None]
    threshold = jnp.take_along_axis(logits, largest, axis=1)
    top = jnp.take_along_axis(labels, largest, axis=1)
    return jax.lax.stop_gradient(jnp.where((logits >= threshold) & valid, top, labels))


def mean_kl(embeddings: Float[Array, "b e"]) -> Float[Array, ""]:
    """Mean over items and dimensions of KL[N(mu, sigma^2) || N(0, 1)] = 1/2 (mu^2 + sigma^2 - log sigma^2 - 1)."""
    mean, log_var = jnp.split(embeddings, 2, axis=-1)
    return 0.5 * jnp.mean(mean**2 + jnp.exp(log_var) - log_var - 1)
