"""The training terms of every pair, with fewer matrix products than the posterior itself takes.

With a linear decoder, a pair's mean mu_k is never needed itself, only two functions of it. One is w . mu_k, one product
with the decoder. The other is |mu_k|^2 in the KL bound, a quadratic form of the hidden layer. Summed over pairs, that
form is the inner product of two h x h matrices, one of which takes one product over the pairs for all components. A
pair costs 3 + 6 k products forward and backward (15 for k = 2); this leaves 5 + 3 k of them (11).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.ops import gaussian_mixture as mixture
from vacsr_jax.ops.products import outer_sum, product
from vacsr_jax.pair.adapter import bound, hidden_units, scaled_cosine
from vacsr_jax.pair.vacsr import PairNoise, VariationalAdapter


class TermParameters(NamedTuple):
    """The adapter's parameters as training needs them: differentiable functions of them, computed once a step.

    W_k, b_k are the means' parameters, w, b the decoder's, and alpha the mixture's weights. `readout` [h, k] is W_k w,
    and `readout_bias` is w . b_k + b. With `gram` = sum_k alpha_k W_k W_k^T, `cross` = sum_k alpha_k W_k b_k and
    `norm` = sum_k alpha_k |b_k|^2, a hidden layer x has sum_k alpha_k |mu_k|^2 = x gram x + 2 x . cross + norm.
    """

    trunk_kernel: Float[Array, "d h"]
    trunk_bias: Float[Array, " h"]
    readout: Float[Array, "h k"]
    readout_bias: Float[Array, " k"]
    gram: Float[Array, "h h"]
    cross: Float[Array, " h"]
    norm: Float[Array, ""]
    log_var_kernel: Float[Array, "h kd"]
    log_var_bias: Float[Array, " kd"]
    decoder: Float[Array, " d"]
    mixture_logits: Float[Array, " k"]
    scale: Float[Array, ""] | None


class SummedTerms(NamedTuple):
    """Like `PairTerms`, but with the KL bound already summed, in nats, over the pairs that count, and with the parts of
    the variance loss.

    The variance loss is elementwise but not cheap, and counts for few pairs: see `variance_loss`.
    """

    score: Float[Array, "*b"]
    logit: Float[Array, "*b"]
    kl_sum: Float[Array, ""]
    weights: Float[Array, "*b k"]
    variance: Float[Array, "*b k d"]


def term_parameters(adapter: VariationalAdapter, params: dict[str, Array], dtype: Any) -> TermParameters:
    """The parameters as training needs them. The three large matrices, which multiply pairs, are in `dtype`.

    Raises:
      ValueError: for a decoder with a hidden layer, whose draw of z needs the means themselves.
    """
    if adapter.decoder_width:
        raise ValueError(
            f"decoder_width: got {adapter.decoder_width}, expected 0: the terms in one pass need a linear decoder"
        )
    k, d = adapter.components, adapter.dim
    alpha = jax.nn.softmax(params["mixture_logits"])
    kernel, bias = params["mean_kernel"].reshape(-1, k, d), params["mean_bias"].reshape(k, d)
    decoder = params["decoder_kernel"][:, 0]
    weighted = kernel * alpha[:, None]
    return TermParameters(
        trunk_kernel=params["trunk_kernel"].astype(dtype),
        trunk_bias=params["trunk_bias"],
        readout=kernel @ decoder,
        readout_bias=bias @ decoder + params["decoder_bias"],
        gram=jnp.einsum("hkd,gkd->hg", weighted, kernel).astype(dtype),
        cross=jnp.einsum("hkd,kd->h", weighted, bias),
        norm=alpha @ jnp.sum(bias**2, axis=-1),
        log_var_kernel=params["log_var_kernel"].astype(dtype),
        log_var_bias=params["log_var_bias"],
        decoder=decoder,
        mixture_logits=params["mixture_logits"],
        scale=jnp.exp(params["log_scale"]) if adapter.residual else None,
    )


def summed_terms(
    adapter: VariationalAdapter,
    prepared: TermParameters,
    similarity: Float[Array, "*b d"],
    noise: PairNoise,
    counts: Float[Array, "*b"] | None,
) -> SummedTerms:
    """The training terms of `VariationalAdapter.__call__`, from similarity vectors and prepared parameters.

    `counts` weighs each pair in the sum of the KL bounds. None leaves that sum out (0).
    """
    hidden = hidden_units(similarity, prepared.trunk_kernel, prepared.trunk_bias)
    log_var = bound(product(hidden, prepared.log_var_kernel) + prepared.log_var_bias, adapter.bounded)
    log_var = log_var.reshape(*log_var.shape[:-1], adapter.components, adapter.dim)
    variance = jnp.exp(log_var)
    weights = mixture.component_weights(
        prepared.mixture_logits, noise.gumbel, temperature=adapter.temperature, hard=adapter.hard
    )
    centre = hidden @ prepared.readout + prepared.readout_bias
    if prepared.scale is not None:
        centre = centre + scaled_cosine(prepared.scale, similarity)[..., None]  # the weights sum to 1
    alpha = jax.nn.softmax(prepared.mixture_logits)
    of_logit = jnp.sum(weights**2 * jnp.sum(variance * prepared.decoder**2, axis=-1), axis=-1)
    logit = jnp.sum(weights * centre, axis=-1) + jnp.sqrt(of_logit + 1e-12) * noise.normal
    kl_sum = jnp.zeros((), hidden.dtype)
    if counts is not None:
        of_variance = jnp.sum(variance - log_var - 1, axis=-1) @ alpha
        of_mean = 2 * hidden @ prepared.cross + prepared.norm
        rows = hidden.reshape(-1, hidden.shape[-1])
        kl_sum = 0.5 * (jnp.sum(counts * (of_variance + of_mean)) + quadratic_sum(rows, counts.ravel(), prepared.gram))
    return SummedTerms(centre @ alpha, logit, kl_sum, weights, variance)


def variance_loss(adapter: VariationalAdapter, terms: SummedTerms) -> Float[Array, "*b"]:
    """The variance loss of every pair; see `VariationalAdapter.variance_loss`."""
    return adapter.variance_loss(terms.logit, mixture.mix(terms.weights, terms.variance))


@jax.custom_vjp
def quadratic_sum(x: Float[Array, "p h"], weights: Float[Array, " p"], gram: Float[Array, "h h"]) -> Float[Array, ""]:
    """sum_p weights_p x_p gram x_p for a symmetric gram, = <gram, sum_p weights_p x_p x_p^T>: one product of the pairs.

    The second factor is the gradient with respect to gram. The gradient with respect to x is 2 weights x gram, which is
    one product more. `weights` are held constant.
    """
    return _quadratic_sum(x, weights, gram)[0]


def _quadratic_sum(x, weights, gram):
    moments = outer_sum((x * weights[:, None]).astype(gram.dtype), x.astype(gram.dtype))
    return jnp.sum(moments * gram), (x, weights, gram, moments)


def _quadratic_sum_backward(saved, g):
    x, weights, gram, moments = saved
    return 2 * g * weights[:, None] * product(x, gram), jnp.zeros_like(weights), (g * moments).astype(gram.dtype)


quadratic_sum.defvjp(_quadratic_sum, _quadratic_sum_backward)
