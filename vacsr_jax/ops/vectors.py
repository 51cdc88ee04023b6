"""Unit vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x / |x| along the last axis; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))
