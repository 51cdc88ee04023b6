"""The sigmoid loss for labels that may be wrong: every pair's odds of being labelled have a floor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vacsr_jax.losses.contrastive import Labels


def add_noise_floor(
    label_logit: Float[Array, "n m"],
    noise_logit: Float[Array, ""],
    labels: Labels,
    valid: Bool[Array, "n m"],
) -> Float[Array, "n m"]:
    """l_ij = logaddexp(r_ij, log nu - log N_i): the log odds that the pair is labelled, rightly or wrongly.

    nu = sigmoid(noise_logit), one learned number, is the share of labels that are wrong. A wrong label is equally
    likely for each of the N_i valid negatives of image i in the batch (of all devices). Finite for every finite r.
    """
    labels = jnp.asarray(labels, label_logit.dtype)
    negatives = jnp.sum(jnp.where(valid, 1 - labels, 0), axis=1, keepdims=True)
    return jnp.logaddexp(label_logit, jax.nn.log_sigmoid(noise_logit) - jnp.log(jnp.maximum(negatives, 1)))
