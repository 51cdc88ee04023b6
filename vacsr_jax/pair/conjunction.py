"""A match as a conjunction: a caption is true of an image if each of its few claims is true."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.losses import contrastive
from vacsr_jax.ops.products import product
from vacsr_jax.pair.base import Leaf, Meaning, Method, PairModel, PairScores, Scorer, of_logits
from vacsr_jax.pair.cosine import scaled

TAIL = 15.0  # beyond it, log(1 + exp(-x)) equals exp(-x) in float32


class ConjunctionScorer(Scorer):
    """The parameters of a `ConjunctionModel` in the form that scoring needs."""

    scale: Leaf  # []
    bias: Leaf  # [claims]

    def score_tile(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> PairScores:
        return PairScores(conjunction_logit(self, images, texts[None]), None)

    def score_listed(self, images: Float[Array, "r d"], texts: Float[Array, "r k d"]) -> PairScores:
        return PairScores(conjunction_logit(self, images, texts), None)


class ConjunctionModel(PairModel):
    """P(match_ij) = prod_k sigmoid(a^k_ij),  a^k_ij = exp(log_scale) <v^k_i, t^k_j> + bias_k,  k = 1 .. claims.

    v^k and t^k are the k-th of `claims` equal parts of an embedding, which is first scaled to length sqrt(claims). The
    mean of a^k over the claims is then exp(log_scale) cos(v_i, t_j) + mean bias, and with one claim the model is
    `CosineModel`. In a cosine, a strong agreement on one fact can make up for a disagreement on another; in a product
    it cannot. No factor exceeds 1, so the model has less room than an adapter to express how general a text is. A
    caption that makes no k-th claim has a short t^k, and its factor is sigmoid(bias_k) for every image.

    Attributes:
      dim: d, the dimension of the embeddings.
      claims: the number of parts of an embedding; it divides `dim`.
      initial_logit: the logit of a match at the start, when all claims are alike.
      scale: the scale at the start.
      learn_scale: False: scale and biases stay as they are.

    Raises:
      ValueError: if the claims do not divide the dimension.
    """

    dim: int
    claims: int
    initial_logit: float
    scale: float = 10.0
    learn_scale: bool = True

    @property
    def meaning(self) -> Meaning:
        return Meaning(
            "log odds that the pair is labelled a match", "that every claim of the text is true of the image", None
        )

    def setup(self):
        if self.claims < 1 or self.dim % self.claims:
            raise ValueError(f"conjunction.claims: got {self.claims}, expected a divisor of the {self.dim} dimensions")
        of_one = -math.log1p(math.exp(-self.initial_logit)) / self.claims
        start = of_one - math.log(-math.expm1(of_one))
        self.log_scale = self.param("log_scale", lambda key: jnp.asarray(math.log(self.scale), jnp.float32))
        self.bias = self.param("bias", nn.initializers.constant(start), (self.claims,))

    def prepare(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Vectors of length sqrt(claims); a zero vector stays zero."""
        squares = jnp.sum(embedding**2, axis=-1, keepdims=True) / self.claims
        return embedding * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))

    @nn.nowrap
    def from_unit(self, vectors: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return vectors * self.claims**0.5

    def scorer(self) -> ConjunctionScorer:
        held = (lambda x: x) if self.learn_scale else jax.lax.stop_gradient
        return ConjunctionScorer(jnp.exp(held(self.log_scale)), held(self.bias))

    @nn.nowrap
    def with_scale(self, params, log_scale, bias=None):
        """With a bias, a pair at the base rate whose claims are alike starts with the known logit."""
        if not self.learn_scale:
            return params
        of_claims = None if bias is None else params["bias"] + (bias - self.initial_logit)
        return scaled(params, log_scale, of_claims, "bias")


def conjunction_logit(
    scorer: ConjunctionScorer, images: Float[Array, "r d"], texts: Float[Array, "#r c d"]
) -> Float[Array, "r c"]:
    """The match logit of each image with its own texts, or with texts that all images share (#r = 1)."""
    claims = len(scorer.bias)

    def agreement(v, t):
        return product(v, t[0].T) if len(t) == 1 else jnp.einsum("re,rce->rc", v, t)

    parts = zip(*(jnp.split(side, claims, axis=-1) for side in (images, texts)), scorer.bias, strict=True)
    return logit_of_all(jnp.stack([scorer.scale * agreement(v, t) + bias for v, t, bias in parts]))


def logit_of_all(logits: Float[Array, "*k"], log_weights: Array | float = 0.0, axis: int = 0) -> Float[Array, "*r"]:
    """logit(prod_k sigmoid(a^k)^w_k): the log odds that independent statements, of logits a^k along `axis`, all hold.

    = -log(exp(u) - 1), u = sum_k w_k log(1 + exp(-a^k)). u is kept as a logarithm. The value, and the gradient
    w_k sigmoid(-a^k) / sigmoid(-a), are therefore finite for every finite a^k and log w_k.
    """
    log_u = jax.scipy.special.logsumexp(log_softplus(-logits) + log_weights, axis=axis)
    small = log_u < -TAIL
    u = jnp.exp(jnp.where(small, 0, log_u))
    return jnp.where(small, -log_u, -u - jnp.log(-jnp.expm1(-u)))


def log_softplus(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log log(1 + exp(x)), finite for every finite x."""
    small = x < -TAIL
    return jnp.where(small, x, jnp.log(jax.nn.softplus(jnp.where(small, 0, x))))


def build(config, dim: int, initial_logit: float) -> ConjunctionModel:
    scale = config.cosine.scale or ConjunctionModel.scale
    return ConjunctionModel(dim, config.conjunction.claims, initial_logit, scale, config.cosine.learn_scale)


CONJUNCTION = Method(
    "model: a product of few claims, each by the sigmoid of its own cosine; the sigmoid loss",
    ConjunctionModel,
    build,
    of_logits(contrastive.sigmoid),
)
