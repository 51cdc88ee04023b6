"""PCME++'s pair model: images and texts are Gaussians, compared by the mean squared distance of samples."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.losses.pcmepp import pcmepp
from vacsr_jax.pair.base import Batch, Leaf, Meaning, Method, PairModel, PairScores, Scorer
from vacsr_jax.towers.base import Encoded


class GaussianScorer(Scorer):
    """The parameters of a `GaussianDistance` in the form that scoring needs."""

    gives_uncertainty = True

    scale: Leaf  # []
    bias: Leaf  # []

    def score_tile(self, images: Float[Array, "r e"], texts: Float[Array, "c e"]) -> PairScores:
        return self._score(images, texts[None])

    def score_listed(self, images: Float[Array, "r e"], texts: Float[Array, "r k e"]) -> PairScores:
        return self._score(images, texts)

    def _score(self, images: Float[Array, "r e"], texts: Float[Array, "one_or_r c e"]) -> PairScores:
        # One matrix product, so that r x c x d differences never exist.
        (means, log_vars), (text_means, text_log_vars) = (jnp.split(x, 2, axis=-1) for x in (images, texts))
        shared = len(texts) == 1
        dots = means @ text_means[0].T if shared else jnp.einsum("rd,rcd->rc", means, text_means)
        squares = jnp.sum(means**2, axis=-1)[:, None] + jnp.sum(text_means**2, axis=-1)
        variance = jnp.sum(jnp.exp(log_vars), axis=-1)[:, None] + jnp.sum(jnp.exp(text_log_vars), axis=-1)
        return PairScores(self.bias - self.scale * (squares - 2 * dots + variance), variance)


class GaussianDistance(PairModel):
    """logit_ij = -a (|mu_i - mu_j|^2 + sum_d (sigma_i^2 + sigma_j^2)) + b; Chun 2024 (PCME++).

    An item is a unit mean followed by log sigma^2, [b, 2 d]. The towers give log sigma^2. a and b are learned, and
    start at `scale` and `initial_logit`.
    """

    wants_log_var = True

    scale: float = 5.0
    initial_logit: float = 5.0

    @property
    def meaning(self) -> Meaning:
        return Meaning(
            "log odds that the pair is labelled a match",
            "that the pair is labelled a match",
            "variance of the image plus variance of the text, summed over dimensions",
        )

    def setup(self):
        self.distance_scale = self.param("scale", lambda key: jnp.float32(self.scale))
        self.bias = self.param("bias", lambda key: jnp.float32(self.initial_logit))

    def prepare_image(self, encoded: Encoded) -> Float[Array, "b e"]:
        return gaussian(encoded.embedding, encoded.log_var)

    def prepare_text(self, encoded: Encoded) -> Float[Array, "b e"]:
        return gaussian(encoded.embedding, encoded.log_var)

    @nn.nowrap
    def direction(self, items: Leaf) -> Leaf:
        return items[:, : items.shape[1] // 2]

    def scorer(self) -> GaussianScorer:
        return GaussianScorer(self.distance_scale, self.bias)


def gaussian(mean: Float[Array, "b d"], log_var: Float[Array, "b d"] | None) -> Float[Array, "b e"]:
    """[mean / |mean|, log sigma^2].

    Raises:
      ValueError: without log sigma^2.
    """
    if log_var is None:
        raise ValueError("GaussianDistance: Encoded.log_var is None; the towers must give log sigma^2 of each item")
    # This divides, where `ops.vectors.unit` multiplies, to keep PCME++'s numbers the same to the last bit.
    norm = jnp.sqrt(jnp.maximum(jnp.sum(mean**2, axis=-1, keepdims=True), 1e-24))
    return jnp.concatenate([mean / norm, log_var], axis=-1)


def loss(logits: Float[Array, "n m"], batch: Batch, config):
    """`losses.pcmepp.pcmepp`, which also looks at the items' own means and variances."""
    pseudo, vib = config.pcmepp.pseudo_positives, config.pcmepp.vib
    items = (batch.images, batch.texts)
    return pcmepp(logits, *items, batch.labels, batch.valid, pseudo_positives=pseudo, vib=vib)


PCMEPP = Method(
    "model: an image and a text are a Gaussian each (PCME++)",
    GaussianDistance,
    lambda config, dim, initial_logit: GaussianDistance(),
    loss,
    options=lambda config, dim: {"initial_log_var": math.log(config.pcmepp.variance / dim)},
)
