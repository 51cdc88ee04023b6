"""The adapter, a hidden layer on a pair's similarity vector: how it is scored, and the adapter without a latent."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from vacsr_jax.losses import contrastive
from vacsr_jax.ops import fused_scores
from vacsr_jax.ops.pairwise import similarity_vectors
from vacsr_jax.ops.products import product
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.base import Item, Leaf, Meaning, Method, PairModel, PairScores, Scorer, of_logits
from vacsr_jax.pair.cosine import CosineModel, scaled

EMBEDDINGS = ("unit", "raw")
MOST_PAIRS = 1 << 18  # of a tile: larger tiles keep no accelerator busier
AGREEMENT = 0.02  # how far the fused kernel's scores may be from XLA's


def hidden_units(
    similarity: Float[Array, "*b d"], kernel: Float[Array, "d h"], bias: Float[Array, " h"]
) -> Float[Array, "*b h"]:
    """gelu(s W + b) of every pair, in the kernel's precision: the one matrix product that each pair costs."""
    return nn.gelu(product(similarity, kernel) + bias)


def bound(log_var: Float[Array, "*b"], bounded: bool) -> Float[Array, "*b"]:
    """log sigma^2 of a raw log-variance: itself, or log sigmoid of it, so that sigma^2 < 1."""
    return jax.nn.log_sigmoid(log_var) if bounded else log_var


class AdapterScorer(Scorer):
    """The parameters of an adapter in the form that scoring needs.

    logit = gelu(s trunk_kernel + trunk_bias) . readout + bias. If the decoder has a hidden layer, `readout` is [h, e]
    and the logit is gelu(...) . decoder. `log_var_kernel` [h, k d] gives the log-variances; it is None without a
    latent. With a `scale`, the logit has scale cos besides (`residual`).
    """

    trunk_kernel: Leaf  # [d, h]
    trunk_bias: Leaf  # [h]
    readout: Leaf  # [h, e]
    readout_bias: Leaf  # [e]
    decoder: Leaf = None  # [e]
    decoder_bias: Leaf = None  # []
    log_var_kernel: Leaf = None  # [h, k d]
    log_var_bias: Leaf = None  # [k d]
    weights: Leaf = None  # [k]
    scale: Leaf = None  # []
    bounded: bool = struct.field(pytree_node=False, default=False)  # see `bound`

    @property
    def gives_uncertainty(self) -> bool:
        return self.log_var_kernel is not None

    def score_tile(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> PairScores:
        return self.score_vectors(similarity_vectors(images, texts))

    def score_listed(self, images: Float[Array, "r d"], texts: Float[Array, "r k d"]) -> PairScores:
        return self.score_vectors(images[:, None, :] * texts)

    def score_vectors(self, similarity: Float[Array, "r c d"]) -> PairScores:
        """The score m(mu_bar) and the uncertainty mean_d sigma of each pair, from its similarity vector.

        sigma_d^2 = sum_k alpha_k sigma_kd^2, without sampling (Wei et al. 2026, section 3.5). The logit takes one
        matrix product of the hidden layer. The log-variances, if there are any, take one more per component.
        """
        hidden = hidden_units(similarity, self.trunk_kernel, self.trunk_bias)
        out = hidden @ self.readout + self.readout_bias
        logit = out[..., 0] if self.decoder is None else nn.gelu(out) @ self.decoder + self.decoder_bias
        if self.scale is not None:
            logit = logit + scaled_cosine(self.scale, similarity)
        if self.log_var_kernel is None:
            return PairScores(logit, None)
        # exp(log sigma^2 + log alpha): the weights cost nothing as a part of the bias.
        log_var = bound(product(hidden, self.log_var_kernel) + self.log_var_bias, self.bounded)
        log_var = log_var.reshape(*log_var.shape[:-1], len(self.weights), -1)
        variance = jnp.sum(jnp.exp(log_var + jnp.log(self.weights)[:, None]), axis=-2)
        return PairScores(logit, jnp.mean(jnp.sqrt(variance), axis=-1))

    def tile_function(self):
        """The fused kernel on a GPU, if it supports the sizes and agrees with XLA; otherwise XLA's form.

        If the kernel fails on this machine, or differs from XLA's result on a few pairs, one warning is given.
        """
        if jax.default_backend() != "gpu" or self.decoder is not None or self.bounded:
            return AdapterScorer.score_tile
        d, h = self.trunk_kernel.shape
        components = 0 if self.weights is None else len(self.weights)
        fits = fused_scores.fits(d, h) and kernel_agrees(d, h, components, jnp.dtype(self.trunk_kernel.dtype))
        return score_tile_fused if fits else AdapterScorer.score_tile

    def for_ranking(self) -> AdapterScorer:
        """The scorer for logits alone, which costs 1 / (k + 1) as much."""
        return self.replace(log_var_kernel=None, log_var_bias=None, weights=None)

    def in_precision(self, dtype: Any) -> AdapterScorer:
        log_var_kernel = None if self.log_var_kernel is None else self.log_var_kernel.astype(dtype)
        return self.replace(trunk_kernel=self.trunk_kernel.astype(dtype), log_var_kernel=log_var_kernel)

    def pairs_per_tile(self, tile_bytes: int, images: Item, texts: Item) -> int:
        """A pair takes memory for its similarity vector, for its hidden layer twice (in float32 and in the precision of
        the products), and for its log-variances."""
        d, h = self.trunk_kernel.shape
        size = self.trunk_kernel.dtype.itemsize
        of_variance = 0 if self.log_var_kernel is None else size * h + 4 * self.log_var_kernel.shape[1]
        return max(1, min(MOST_PAIRS, tile_bytes // (size * d + 4 * h + of_variance)))


def score_tile_fused(
    scorer: AdapterScorer, images: Float[Array, "r d"], texts: Float[Array, "c d"], *, interpret: bool = False
) -> PairScores:
    """`AdapterScorer.score_tile` by the fused GPU kernel, for a linear readout. `score_tile` is the reference."""
    of_variance: tuple[Leaf, ...] = ()
    components = 0
    if scorer.log_var_kernel is not None:
        components = len(scorer.weights)
        log_weights = jnp.repeat(jnp.log(scorer.weights), len(scorer.log_var_bias) // components)
        of_variance = (scorer.log_var_kernel, scorer.log_var_bias + log_weights)
    trunk = (scorer.trunk_kernel, scorer.trunk_bias, scorer.readout[:, 0])
    logit, uncertainty = fused_scores.fused_scores(
        images, texts, *trunk, *of_variance, components=components, interpret=interpret
    )
    logit = logit + scorer.readout_bias
    if scorer.scale is not None:
        logit = logit + scorer.scale / images.shape[-1] * product(images, texts.T)
    return PairScores(logit, uncertainty)


@functools.cache
def kernel_agrees(d: int, h: int, components: int, dtype: jnp.dtype) -> bool:
    """Whether the fused kernel agrees with XLA on a few random pairs on this machine. Warns if it does not."""
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    of_variance = (
        normal(h, components * d, scale=h**-0.5),
        normal(components * d),
        jnp.full(components, 1 / components) if components else None,
    )
    scorer = AdapterScorer(normal(d, h, scale=d**-0.5), normal(h), normal(h, 1, scale=h**-0.5), normal(1))
    if components:
        scorer = scorer.replace(log_var_kernel=of_variance[0], log_var_bias=of_variance[1], weights=of_variance[2])
    scorer, images, texts = scorer.in_precision(dtype), normal(9, d), normal(17, d)
    try:
        ours, plain = jax.device_get((score_tile_fused(scorer, images, texts), scorer.score_tile(images, texts)))
    except Exception as error:  # whatever a compiler or driver raises: scoring works without the kernel
        warnings.warn(f"the fused GPU kernel does not run here, so XLA's form is used: {error}", stacklevel=2)
        return False
    differ = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True))
    if differ > AGREEMENT:
        warnings.warn(f"the fused GPU kernel is off by {differ:.3f} here, so XLA's form is used", stacklevel=2)
    return bool(differ <= AGREEMENT)


class AdapterModel(PairModel):
    """The base class of the adapters: an item is a scaled embedding, and the first layer is the hidden layer.

    Attributes:
      dim: d, the dimension of the embeddings.
      width: h, the width of the hidden layer.
      embeddings: "unit" or "raw", see `scale_embedding`.
      initial_logit: the logit of every pair at the start.
    """

    dim: int
    width: int
    embeddings: str
    initial_logit: float

    @property
    def residual_to_cosine(self) -> bool:
        """Whether the logit has scale cos besides m(z); see `residual_scale`."""
        return False

    @nn.nowrap
    def prepare(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return scale_embedding(embedding, self.embeddings)

    @nn.nowrap
    def from_unit(self, vectors: Float[Array, "b d"]) -> Float[Array, "b d"]:
        if self.embeddings != "unit":
            raise ValueError(
                "the model was trained on raw embeddings, but files of embeddings hold unit vectors; "
                "score the images and texts themselves"
            )
        return self.prepare(vectors)


class DeterministicAdapter(AdapterModel):
    """logit = gelu(s W + b) . f + c: VACSR's hidden layer and a linear head, without a latent.

    It has d^2 + 2 d + 1 parameters at h = d. The attributes are those of `AdapterModel`, and
      residual: logit = scale cos(v, t) + bias + gelu(s W + b) . f with f = 0 at the start: the cosine that it starts
        from, and leaves where that helps.
    """

    residual: bool = False

    @property
    def residual_to_cosine(self) -> bool:
        return self.residual

    @property
    def meaning(self) -> Meaning:
        return Meaning("log odds that the pair is labelled a match", "that the pair is labelled a match", None)

    def setup(self):
        self.trunk_kernel, self.trunk_bias = trunk_parameters(self)
        self.scale = residual_scale(self)
        self.head = self.param("head", last_layer(self), (self.width, 1))
        self.bias = self.param("bias", nn.initializers.constant(self.initial_logit), (1,))

    def scorer(self) -> AdapterScorer:
        return AdapterScorer(self.trunk_kernel, self.trunk_bias, self.head, self.bias, scale=self.scale)

    @nn.nowrap
    def with_scale(self, params, log_scale, bias=None):
        return scaled(params, log_scale, bias, "bias") if self.residual else params


def trunk_parameters(module: nn.Module) -> tuple[Array, Array]:
    """The hidden layer's kernel [d, h] and bias [h]."""
    kernel = module.param("trunk_kernel", nn.initializers.lecun_normal(), (module.dim, module.width))
    return kernel, module.param("trunk_bias", nn.initializers.zeros, (module.width,))


def residual_scale(module: AdapterModel) -> Array | None:
    """The learned scale of the cosine that a residual adapter starts from; None for an adapter without one.

    Raises:
      ValueError: for raw embeddings, whose inner products are no cosines.
    """
    if not module.residual_to_cosine:
        return None
    if module.embeddings != "unit":
        raise ValueError(
            f"adapter.residual: got true with adapter.embeddings={module.embeddings}; the cosine needs "
            "adapter.embeddings=unit"
        )
    return jnp.exp(module.param("log_scale", lambda key: jnp.asarray(math.log(CosineModel.scale), jnp.float32)))


def last_layer(module: AdapterModel):
    """The initializer of a decoder's last layer: zero if the adapter starts as a cosine."""
    return nn.initializers.zeros if module.residual_to_cosine else nn.initializers.lecun_normal()


def scaled_cosine(scale: Float[Array, ""], similarity: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """scale cos of pairs with these similarity vectors, which sum to d cos."""
    return scale * jnp.mean(similarity, axis=-1)


def scale_embedding(x: Float[Array, "b d"], embeddings: str) -> Float[Array, "b d"]:
    """Scales embeddings: sqrt(d) x / |x| for "unit", x itself for "raw".

    With "unit" the entries of s are O(1), and s sums to d cos.

    Raises:
      ValueError: for any other choice.
    """
    if embeddings not in EMBEDDINGS:
        raise ValueError(f"adapter.embeddings: got {embeddings!r}, expected one of {', '.join(EMBEDDINGS)}")
    return x if embeddings == "raw" else unit(x) * x.shape[-1] ** 0.5


def adapter_fields(config, dim: int, initial_logit: float) -> dict[str, Any]:
    """Reads the fields of `AdapterModel` from a config."""
    adapter = config.adapter
    shape = {"dim": dim, "width": adapter.width or dim, "embeddings": adapter.embeddings}
    return {**shape, "initial_logit": initial_logit}


DETERMINISTIC = Method(
    "model: the adapter without a latent; the sigmoid loss",
    DeterministicAdapter,
    lambda config, dim, initial_logit: DeterministicAdapter(
        **adapter_fields(config, dim, initial_logit), residual=config.adapter.residual
    ),
    of_logits(contrastive.sigmoid),
)
