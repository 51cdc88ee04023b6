"""The triplet loss with hardest negatives of VSE++ (Faghri et al. 2018), as in VSE-infinity (Chen et al. 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vacsr_jax.losses.contrastive import Labels, Terms, check_batch


def triplet(
    similarity: Float[Array, "n n"],
    labels: Labels,
    valid: Bool[Array, "n n"],
    *,
    margin: float,
    hardest: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, ""], Terms]:
    """sum_i max_j [margin + s_ij - s_ii]+ + sum_j max_i [margin + s_ij - s_jj]+, where max is over negatives.

    Without `hardest`, a sum replaces the max. Text i must be the one that was drawn with image i. Negatives are the
    valid pairs whose label is below 1/2. The loss is summed over the batch.

    Raises:
      ValueError: for a batch with fewer than two images or texts.
    """
    check_batch(*similarity.shape)
    own = jnp.diagonal(similarity)
    negatives = (jnp.asarray(labels, similarity.dtype) < 0.5) & valid

    def one_way(anchor, axis):
        cost = jnp.where(negatives, jax.nn.relu(margin + similarity - anchor), 0)
        return jnp.sum(jnp.where(hardest, cost.max(axis=axis), cost.sum(axis=axis)))

    image_to_text, text_to_image = one_way(own[:, None], 1), one_way(own[None, :], 0)
    loss = image_to_text + text_to_image
    return loss, {"loss": loss, "i2t": image_to_text, "t2i": text_to_image}
