"""A method of one's own: each word looks for its best patch (late interaction; FILIP, Yao et al. 2022)."""

import flax.linen as nn
import jax.numpy as jnp

from vacsr_jax.losses.contrastive import sigmoid
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.base import Items, Leaf, Meaning, Method, PairModel, PairScores, Scorer, of_logits


class Tokens(Items):
    vectors: Leaf  # [b, l, d] unit vectors
    weights: Leaf  # [b, l] 1 / (number of tokens) for an item's own tokens, 0 for pads


class TokenScorer(Scorer):
    scale: Leaf
    bias: Leaf

    def score_tile(self, images, texts):
        best = jnp.einsum("rpd,cld->rclp", images.vectors, texts.vectors).max(axis=-1)
        return PairScores(self.scale * jnp.einsum("rcl,cl->rc", best, texts.weights) + self.bias, None)


class TokenModel(PairModel):
    dim: int
    initial_logit: float
    meaning = Meaning("log odds that the pair is labelled a match", "that the pair is labelled a match", None)

    def setup(self):
        self.image_projection, self.text_projection = nn.Dense(self.dim), nn.Dense(self.dim)
        self.scale = self.param("scale", nn.initializers.constant(10.0), ())
        self.bias = self.param("bias", nn.initializers.constant(self.initial_logit), ())

    def prepare_image(self, encoded):
        return self._tokens(self.image_projection, encoded)

    def prepare_text(self, encoded):
        return self._tokens(self.text_projection, encoded)

    def _tokens(self, projection, encoded):
        vectors = unit(projection(encoded.tokens.astype(jnp.float32)))
        return Tokens(vectors, encoded.valid / encoded.valid.sum(axis=1, keepdims=True))

    def scorer(self):
        return TokenScorer(self.scale, self.bias)


def build(config, dim, initial_logit):
    return TokenModel(dim, initial_logit)


MyMethod = Method("model: each word's best patch; the sigmoid loss", TokenModel, build, of_logits(sigmoid))
