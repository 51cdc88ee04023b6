"""Vectors of unit length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Array = jax.Array | np.ndarray


def unit(x: Float[Array, "*b d"]) -> Float[jax.Array, "*b d"]:
    """x / |x| along the last axis, in the type of x. A zero vector stays zero.

    |x| counts as at least 1e-12, so that the gradient at a zero vector is finite.
    """
    return jnp.multiply(x, jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24)))
