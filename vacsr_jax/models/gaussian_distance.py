"""PCME++'s pair model: each image and each text is a Gaussian; a pair is as far apart as their samples on average."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class GaussianDistance(nn.Module):
    """logit_ij = -a (|mu_i - mu_j|^2 + sum_d (sigma_i^2 + sigma_j^2)) + b; Chun 2024 (PCME++).

    The means are unit vectors; log sigma^2 stands beside them in a prepared embedding, [b, 2 d]. a and b are learned
    and start at `scale` and `initial_logit`.
    """

    scale: float = 5.0
    initial_logit: float = 5.0

    def setup(self):
        self.distance_scale = self.param("scale", lambda key: jnp.float32(self.scale))
        self.bias = self.param("bias", lambda key: jnp.float32(self.initial_logit))

    def prepare(self, mean: Float[Array, "b d"], log_var: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """[mean / |mean|, log sigma^2]."""
        norm = jnp.sqrt(jnp.maximum(jnp.sum(mean**2, axis=-1, keepdims=True), 1e-24))
        return jnp.concatenate([mean / norm, log_var], axis=-1)

    def __call__(self, images: Float[Array, "r e"], texts: Float[Array, "c e"]) -> Float[Array, "r c"]:
        """The logit of every pair of prepared embeddings."""
        return score_gaussians(self.fold(), images, texts[None])[0]

    def fold(self) -> FoldedGaussian:
        return FoldedGaussian(self.distance_scale, self.bias)


class FoldedGaussian(NamedTuple):
    """What scoring needs of a `GaussianDistance`."""

    scale: Float[Array, ""]
    bias: Float[Array, ""]


def score_gaussians(
    folded: FoldedGaussian, images: Float[Array, "r e"], texts: Float[Array, "one_or_r c e"]
) -> tuple[Float[Array, "r c"], Float[Array, "r c"]]:
    """Logits of every image with the texts (all images with the same ones, or each with its own c), and
    sum_d (sigma_i^2 + sigma_j^2): one matrix product, never r x c x d differences."""
    (means, log_vars), (text_means, text_log_vars) = (jnp.split(x, 2, axis=-1) for x in (images, texts))
    shared = len(texts) == 1
    dots = means @ text_means[0].T if shared else jnp.einsum("rd,rcd->rc", means, text_means)
    squares = jnp.sum(means**2, axis=-1)[:, None] + jnp.sum(text_means**2, axis=-1)
    spread = jnp.sum(jnp.exp(log_vars), axis=-1)[:, None] + jnp.sum(jnp.exp(text_log_vars), axis=-1)
    return folded.bias - folded.scale * (squares - 2 * dots + spread), spread
