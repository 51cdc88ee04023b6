"""The scaled cosine of two embeddings, and the published losses that are trained on it."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.losses import contrastive
from vacsr_jax.losses.triplet import triplet
from vacsr_jax.ops.products import product
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.base import Batch, Leaf, Meaning, Method, PairModel, PairScores, Scorer, of_logits


class CosineScorer(Scorer):
    """scale cos + bias."""

    scale: Leaf  # []
    bias: Leaf  # []

    def score_tile(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> PairScores:
        return PairScores(self.scale * product(images, texts.T) + self.bias, None)

    def score_listed(self, images: Float[Array, "r d"], texts: Float[Array, "r k d"]) -> PairScores:
        return PairScores(self.scale * jnp.sum(images[:, None, :] * texts, axis=-1) + self.bias, None)


class CosineModel(PairModel):
    """logit_ij = exp(log_scale) cos(v_i, t_j) + bias, as in SigLIP (Zhai et al. 2023).

    `initial_logit` is the bias at the start. None leaves the bias out, as CLIP does. A loss that normalizes over the
    batch does not fix the level of the logits, so such a logit ranks pairs but is not a probability. `scale` is the
    scale at the start. Without `learn_scale`, scale and bias stay as they are.
    """

    initial_logit: float | None
    scale: float = 10.0
    learn_scale: bool = True

    @property
    def meaning(self) -> Meaning:
        if self.initial_logit is None:
            return Meaning("scaled cosine: it ranks, and its level means nothing", None, None)
        return Meaning("log odds that the pair is labelled a match", "that the pair is labelled a match", None)

    def setup(self):
        self.log_scale = self.param("log_scale", lambda key: jnp.asarray(math.log(self.scale), jnp.float32))
        has_bias = self.initial_logit is not None
        self.bias = self.param("bias", lambda key: jnp.float32(self.initial_logit)) if has_bias else jnp.float32(0)

    def prepare(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Unit vectors."""
        return unit(embedding)

    @nn.nowrap
    def from_unit(self, vectors: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return vectors

    def scorer(self) -> CosineScorer:
        held = (lambda x: x) if self.learn_scale else jax.lax.stop_gradient
        return CosineScorer(jnp.exp(held(self.log_scale)), held(self.bias))

    @nn.nowrap
    def with_scale(self, params, log_scale, bias=None):
        return scaled(params, log_scale, bias, "bias") if self.learn_scale else params


def scaled(params, log_scale, bias, name: str):
    """`PairModel.with_scale` of a model with log_scale and, maybe, a bias of this name."""
    known = bias is not None and name in params
    return {**params, "log_scale": log_scale, **({name: jnp.full_like(params[name], bias)} if known else {})}


def scaled_cosine(config, dim: int, initial_logit: float) -> CosineModel:
    """A cosine without a bias: its level means nothing."""
    return CosineModel(None, config.cosine.scale or CosineModel.scale, config.cosine.learn_scale)


def cosine_with_bias(config, dim: int, initial_logit: float) -> CosineModel:
    """A cosine with a bias: its sigmoid is a probability."""
    return CosineModel(initial_logit, config.cosine.scale or CosineModel.scale, config.cosine.learn_scale)


def plain_cosine(config, dim: int, initial_logit: float) -> CosineModel:
    """The cosine itself: the margin of the triplet loss is a difference of cosines."""
    return CosineModel(None, scale=1.0, learn_scale=False)


def triplet_loss(similarity: Float[Array, "n m"], batch: Batch, config):
    """`losses.triplet.triplet`, first with all negatives, later with the hardest."""
    hardest = batch.step >= config.triplet.all_negatives_steps
    return triplet(similarity, batch.labels, batch.valid, margin=config.triplet.margin, hardest=hardest)


INFONCE = Method(
    "loss: softmax over the batch, both ways (CLIP)", CosineModel, scaled_cosine, of_logits(contrastive.infonce)
)
CROSS_ENTROPY = Method(
    "loss: softmax over the classes of each image", CosineModel, scaled_cosine, of_logits(contrastive.cross_entropy)
)
SIGMOID = Method(
    "loss: each pair by itself (SigLIP)",
    CosineModel,
    cosine_with_bias,
    of_logits(contrastive.sigmoid),
)
TRIPLET = Method(
    "loss: margin to the hardest negatives (VSE-infinity)", CosineModel, plain_cosine, triplet_loss, with_classes=False
)
