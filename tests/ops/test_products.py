"""Products against float64 numpy, values and gradients, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.ops.products import product


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_values_and_gradients(dtype, tolerance):
    rng = np.random.default_rng(0)
    x, kernel, weight = rng.normal(size=(3, 4, 16)), rng.normal(size=(16, 5)), rng.normal(size=(3, 4, 5))
    given = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, dtype)
    out = product(*given)
    in_x, in_kernel = jax.grad(lambda *a: jnp.sum(product(*a) * weight.astype(np.float32)), argnums=(0, 1))(*given)
    assert (out.dtype, in_x.dtype, in_kernel.dtype) == (jnp.float32, jnp.float32, dtype)

    def error(found, expected):
        return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)

    assert error(out, x @ kernel) < tolerance
    assert error(in_x, weight @ kernel.T) < tolerance
    assert error(in_kernel, np.einsum("abd,abh->dh", x, weight)) < tolerance


def test_half_precision_products_are_summed_in_float32():
    kernel = jnp.ones((4096, 1), jnp.bfloat16)
    assert product(jnp.full((1, 4096), 1.0078125), kernel)[0, 0] == 4096 * 1.0078125  # bfloat16 would give 4128
    text = jax.jit(jax.grad(lambda x, k: product(x, k).sum())).lower(jnp.ones((2, 4096)), kernel).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all(line.count("bf16") == 2 and "-> tensor<" in line and "f32>" in line for line in products), products
