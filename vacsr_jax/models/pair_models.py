"""From two embeddings to one similarity: cosine, the deterministic adapter, and what every pair model shares.

Each model turns embeddings into vectors ready to be paired (`prepare`), and scores tiles of pairs. What a tile needs
beyond the vectors is folded once from the parameters (`fold`), so scoring never touches a mixture component:
that is the seam behind which a faster kernel may stand (`score_tile`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.models.conjunction import FoldedConjunction, score_conjunction
from vacsr_jax.models.gaussian_distance import FoldedGaussian, score_gaussians
from vacsr_jax.models.propensity import FoldedPropensity, log_match
from vacsr_jax.ops.fused_scores import fused_scores
from vacsr_jax.ops.pairwise import similarity_vectors
from vacsr_jax.ops.products import product

EMBEDDINGS = ("unit", "raw")


class PairScores(NamedTuple):
    """Scores of r x c pairs.

    Attributes:
      logit: [r, c] larger is better; sigmoid(logit) is the probability that the pair is a match.
      uncertainty: [r, c] mean latent standard deviation (PCME++: summed variance of both), or None without a latent.
      label_score: [r, c] ranks by how likely the pair is to be the labelled one; None: as `logit` does.
      match_score: [r, c] ranks by how likely it is to be a match; None: as `logit` does.
    """

    logit: Float[Array, "r c"]
    uncertainty: Float[Array, "r c"] | None
    label_score: Float[Array, "r c"] | None = None
    match_score: Float[Array, "r c"] | None = None

    def by_label(self):
        """What to rank by where the question is which text was written for an image."""
        return self.logit if self.label_score is None else self.label_score

    def by_match(self):
        """What to rank by where the question is which texts are true of an image."""
        return self.logit if self.match_score is None else self.match_score


def scale_to_unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """x / |x|; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))


def hidden_units(
    similarity: Float[Array, "*b d"], kernel: Float[Array, "d h"], bias: Float[Array, " h"]
) -> Float[Array, "*b h"]:
    """gelu(s W + b) of every pair: the one matrix product that each pair costs, in the kernel's precision."""
    return nn.gelu(product(similarity, kernel) + bias)


class CosineModel(nn.Module):
    """logit_ij = exp(log_scale) cos(v_i, t_j) + bias, as SigLIP (Zhai et al. 2023).

    `initial_logit` is the bias at the start. None leaves the bias out, as CLIP does: a loss that normalizes over the
    batch fixes no level, so such a logit ranks but is no probability. `scale` is the scale at the start; unless
    `learn_scale`, scale and bias stay as they are.
    """

    initial_logit: float | None
    scale: float = 10.0
    learn_scale: bool = True

    def setup(self):
        self.log_scale = self.param("log_scale", lambda key: jnp.asarray(math.log(self.scale), jnp.float32))
        has_bias = self.initial_logit is not None
        self.bias = self.param("bias", lambda key: jnp.float32(self.initial_logit)) if has_bias else jnp.float32(0)

    def prepare(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Unit vectors."""
        return scale_to_unit(embedding)

    def __call__(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> Float[Array, "r c"]:
        """The logit of every pair of prepared embeddings."""
        return score_tile(self.fold(), images, texts).logit

    def fold(self) -> FoldedCosine:
        held = (lambda x: x) if self.learn_scale else jax.lax.stop_gradient
        return FoldedCosine(jnp.exp(held(self.log_scale)), held(self.bias))


class FoldedCosine(NamedTuple):
    """What scoring needs of a `CosineModel`."""

    scale: Float[Array, ""]
    bias: Float[Array, ""]


class FoldedAdapter(NamedTuple):
    """What scoring needs of an adapter.

    logit = gelu(s trunk_kernel + trunk_bias) . readout + bias; with a decoder of one hidden layer `readout` is
    [h, e] and the logit is gelu(...) . decoder. `spread_kernel` [h, k d] gives the log-variances, None without a
    latent.
    """

    trunk_kernel: Float[Array, "d h"]
    trunk_bias: Float[Array, " h"]
    readout: Float[Array, "h e"]
    readout_bias: Float[Array, " e"]
    decoder: Float[Array, " e"] | None = None
    decoder_bias: Float[Array, ""] | None = None
    spread_kernel: Float[Array, "h kd"] | None = None
    spread_bias: Float[Array, " kd"] | None = None
    weights: Float[Array, " k"] | None = None


Folded = FoldedCosine | FoldedConjunction | FoldedGaussian | FoldedAdapter | FoldedPropensity


def score_tile(folded: Folded, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> PairScores:
    """Scores of every pair of a tile of prepared embeddings; see `score_vectors`."""
    if isinstance(folded, FoldedPropensity):
        inner = score_tile(folded.match, images[:, :-1], texts[:, :-1])
        return with_propensity(folded, inner, images[:, -1:], texts[:, -1])
    if isinstance(folded, FoldedCosine):
        return PairScores(folded.scale * product(images, texts.T) + folded.bias, None)
    if isinstance(folded, FoldedConjunction):
        return PairScores(score_conjunction(folded, images, texts[None]), None)
    if isinstance(folded, FoldedGaussian):
        return PairScores(*score_gaussians(folded, images, texts[None]))
    return score_vectors(folded, similarity_vectors(images, texts))


def score_listed(folded: Folded, images: Float[Array, "r d"], texts: Float[Array, "r k d"]) -> PairScores:
    """Scores [r, k] of every image with texts of its own; see `score_vectors`."""
    if isinstance(folded, FoldedPropensity):
        inner = score_listed(folded.match, images[:, :-1], texts[..., :-1])
        return with_propensity(folded, inner, images[:, -1:], texts[..., -1])
    if isinstance(folded, FoldedConjunction):
        return PairScores(score_conjunction(folded, images, texts), None)
    if isinstance(folded, FoldedGaussian):
        return PairScores(*score_gaussians(folded, images, texts))
    similarity = images[:, None, :] * texts
    if isinstance(folded, FoldedCosine):
        return PairScores(folded.scale * jnp.sum(similarity, axis=-1) + folded.bias, None)
    return score_vectors(folded, similarity)


def with_propensity(folded: FoldedPropensity, scores: PairScores, image: Array, text: Array) -> PairScores:
    """Both scores of pairs, from the match model's logits a and the propensities f (`image`) and g (`text`).

    label_score = log sigmoid(a) + g + f + c ranks as the label's odds do, with or without the floor of wrong labels,
    which is the same for every pair. match_score = log sigmoid(a) + f leaves the text's propensity out.
    """
    match = log_match(scores.logit, folded.plateau) + image
    return scores._replace(label_score=match + text + folded.bias, match_score=match)


def score_vectors(folded: FoldedAdapter, similarity: Float[Array, "r c d"]) -> PairScores:
    """The score m(mu_bar) and the uncertainty mean_d sigma of pairs, from their similarity vectors.

    Wei et al. 2026, section 3.5: sigma_d^2 = sum_k alpha_k sigma_kd^2, and no sampling. One matrix product of the
    hidden layer for the logit, one more per component for the log-variances where `folded` has them.
    """
    hidden = hidden_units(similarity, folded.trunk_kernel, folded.trunk_bias)
    out = hidden @ folded.readout + folded.readout_bias
    logit = out[..., 0] if folded.decoder is None else nn.gelu(out) @ folded.decoder + folded.decoder_bias
    if folded.spread_kernel is None:
        return PairScores(logit, None)
    # exp(log sigma^2 + log alpha): the weights cost nothing when they stand in the bias.
    log_var = product(hidden, folded.spread_kernel) + folded.spread_bias
    log_var = log_var.reshape(*log_var.shape[:-1], len(folded.weights), -1)
    variance = jnp.sum(jnp.exp(log_var + jnp.log(folded.weights)[:, None]), axis=-2)
    return PairScores(logit, jnp.mean(jnp.sqrt(variance), axis=-1))


def score_tile_fused(
    folded: FoldedAdapter, images: Float[Array, "r d"], texts: Float[Array, "c d"], *, interpret: bool = False
) -> PairScores:
    """`score_tile` of an adapter with a linear readout by the fused GPU kernel, whose reference `score_tile` is."""
    spread, components = (), 0
    if folded.spread_kernel is not None:
        components = len(folded.weights)
        log_weights = jnp.repeat(jnp.log(folded.weights), len(folded.spread_bias) // components)
        spread = (folded.spread_kernel, folded.spread_bias + log_weights)
    trunk = (folded.trunk_kernel, folded.trunk_bias, folded.readout[:, 0])
    logit, uncertainty = fused_scores(images, texts, *trunk, *spread, components=components, interpret=interpret)
    return PairScores(logit + folded.readout_bias, uncertainty)


def in_precision(folded: Folded, dtype: Any) -> Folded:
    """`folded` with the matrices that multiply pairs in `dtype`; sums, biases and the readout stay float32."""
    if isinstance(folded, FoldedPropensity):
        return folded._replace(match=in_precision(folded.match, dtype))
    if not isinstance(folded, FoldedAdapter):
        return folded
    spread = None if folded.spread_kernel is None else folded.spread_kernel.astype(dtype)
    return folded._replace(trunk_kernel=folded.trunk_kernel.astype(dtype), spread_kernel=spread)


def without_uncertainty(folded: Folded) -> Folded:
    """`folded` for scores alone, at 1 / (k + 1) of the cost."""
    if isinstance(folded, FoldedPropensity):
        return folded._replace(match=without_uncertainty(folded.match))
    if not isinstance(folded, FoldedAdapter):
        return folded
    return folded._replace(spread_kernel=None, spread_bias=None, weights=None)


class DeterministicAdapter(nn.Module):
    """logit = gelu(s W + b) . f + c: VACSR's trunk and a linear head, no latent. d^2 + 2 d + 1 parameters at h = d."""

    dim: int
    width: int
    embeddings: str
    initial_logit: float

    def setup(self):
        self.trunk_kernel, self.trunk_bias = trunk_parameters(self)
        self.head = self.param("head", nn.initializers.lecun_normal(), (self.width, 1))
        self.bias = self.param("bias", nn.initializers.constant(self.initial_logit), (1,))

    def prepare(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return scale_embedding(embedding, self.embeddings)

    def __call__(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> Float[Array, "r c"]:
        """The logit of every pair of prepared embeddings."""
        return score_tile(self.fold(), images, texts).logit

    def fold(self) -> FoldedAdapter:
        return FoldedAdapter(self.trunk_kernel, self.trunk_bias, self.head, self.bias)


def trunk_parameters(module: nn.Module) -> tuple[Array, Array]:
    """The hidden layer's kernel [d, h] and bias [h]."""
    kernel = module.param("trunk_kernel", nn.initializers.lecun_normal(), (module.dim, module.width))
    return kernel, module.param("trunk_bias", nn.initializers.zeros, (module.width,))


def scale_embedding(x: Float[Array, "b d"], embeddings: str) -> Float[Array, "b d"]:
    """sqrt(d) x / |x| for "unit", so that the entries of s are O(1) and s sums to d cos; x itself for "raw".

    Raises:
      ValueError: for another choice.
    """
    if embeddings not in EMBEDDINGS:
        raise ValueError(f"adapter.embeddings: got {embeddings!r}, expected one of {', '.join(EMBEDDINGS)}")
    return x if embeddings == "raw" else scale_to_unit(x) * x.shape[-1] ** 0.5
