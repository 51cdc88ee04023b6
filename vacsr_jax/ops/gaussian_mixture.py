"""Diagonal Gaussian mixtures over the latent z in R^d, with log-variances. Every function is elementwise in `*b`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_to_standard_normal(mean: Float[Array, "*b d"], log_var: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """KL[N(mean, diag exp(log_var)) || N(0, I)] = 1/2 sum_d (mean^2 + sigma^2 - log sigma^2 - 1).

    Wei et al. 2026, eq. 7. Summed over d, in nats; nothing else is reduced.
    """
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - log_var - 1, axis=-1)


def kl_upper_bound(
    mixture_logits: Float[Array, " k"], mean: Float[Array, "*b k d"], log_var: Float[Array, "*b k d"]
) -> Float[Array, "*b"]:
    """sum_k alpha_k KL[component k || N(0, I)] >= KL[mixture || N(0, I)], alpha = softmax(mixture_logits).

    By convexity of the KL divergence; Wei et al. 2026, eq. 6. In nats; nothing but k and d is reduced.
    """
    return kl_to_standard_normal(mean, log_var) @ jax.nn.softmax(mixture_logits)


def component_weights(
    mixture_logits: Float[Array, " k"], gumbel: Float[Array, "*b k"], *, temperature: float, hard: bool
) -> Float[Array, "*b k"]:
    """A Gumbel-softmax draw, softmax((log alpha + gumbel) / temperature); Jang et al. 2017.

    With `hard` its value is one-hot, an exact draw of a component, and its gradient is that of the soft draw (the
    straight-through form).
    """
    soft = jax.nn.softmax((jax.nn.log_softmax(mixture_logits) + gumbel) / temperature, axis=-1)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1], dtype=soft.dtype)
    return one_hot + soft - jax.lax.stop_gradient(soft)


def mix(weights: Float[Array, "*b k"], values: Float[Array, "*b k d"]) -> Float[Array, "*b d"]:
    """sum_k weights_k values_k."""
    return jnp.sum(weights[..., None] * values, axis=-2)
