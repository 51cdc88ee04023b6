"""Unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.ops.vectors import unit


def test_rows_have_unit_length_and_zero_stays_zero():
    x = np.array([[[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]]], np.float32)
    np.testing.assert_allclose(unit(x), [[[0.6, 0.8], [0, 0], [1, 0]]], rtol=1e-6)
    assert unit(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_gradient_at_a_zero_vector_is_finite():
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros(3))).all()
