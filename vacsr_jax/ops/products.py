"""Matrix products of pairs in half or full precision, with float32 sums in both directions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


@jax.custom_vjp
def product(x: Float[Array, "*b d"], kernel: Float[Array, "d h"]) -> Float[Array, "*b h"]:
    """x @ kernel, x rounded to the kernel's type first; sums and result in float32 (float64 for a float64 kernel).

    A bfloat16 kernel uses a machine's half-precision units because the result is asked for in float32: XLA's CPU
    backend otherwise converts both sides and multiplies in float32. A float32 kernel is multiplied in full, where an
    accelerator's default would round it. Gradients are rounded to the kernel's type in their products too, and
    summed in float32; autodiff alone would multiply in mixed types, in float32.
    """
    return _dot(x.astype(kernel.dtype), kernel, contract=(x.ndim - 1, 0))


def _forward(x, kernel):
    return product(x, kernel), (x.astype(kernel.dtype), jnp.zeros((), x.dtype), kernel)


def _backward(saved, gradient):
    rounded, like, kernel = saved
    gradient = gradient.astype(kernel.dtype)
    rows, out_rows = rounded.reshape(-1, rounded.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    in_x = _dot(gradient, kernel, contract=(gradient.ndim - 1, 1))
    return in_x.astype(like.dtype), outer_sum(rows, out_rows).astype(kernel.dtype)


product.defvjp(_forward, _backward)


def outer_sum(a: Float[Array, "p d"], b: Float[Array, "p h"]) -> Float[Array, "d h"]:
    """sum_p a_p b_p^T in the inputs' common type, sums and result in float32 (or float64)."""
    if a.dtype != jnp.bfloat16 or jax.default_backend() != "cpu":
        return _dot(a, b, contract=(0, 0))
    # XLA's CPU backend uses half-precision units only for rows times columns as they lie in memory; left to itself
    # it makes the transposition free and the product twice as slow.
    return _dot(with_layout_constraint(a.T, Layout((0, 1))), b, contract=(1, 0))


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    axes = (((contract[0],), (contract[1],)), ((), ()))
    out = jnp.promote_types(a.dtype, jnp.float32)
    return jax.lax.dot_general(a, b, axes, precision=jax.lax.Precision.HIGHEST, preferred_element_type=out)
