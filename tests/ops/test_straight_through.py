import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.ops import straight_through


def test_value_is_half_the_squared_error_of_the_probability():
    logit, label = jnp.array([-3.0, 0.0, 2.0]), jnp.array([1.0, 0.0, 1.0])
    probability = 1 / (1 + np.exp(-np.array([-3.0, 0.0, 2.0])))
    expected = 0.5 * (np.array([1.0, 0.0, 1.0]) - probability) ** 2
    np.testing.assert_allclose(straight_through.squared_error(logit, label), expected, rtol=1e-6)


def test_gradient_leaves_the_sigmoid_out():
    # -(y - p): does not vanish for the confident mistake at -20, where the true gradient is 2e-9.
    logit, label = jnp.array([-20.0, 0.0, 2.0]), jnp.array([1.0, 0.0, 1.0])
    gradient = jax.grad(lambda x: straight_through.squared_error(x, label).sum())(logit)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(logit) - label, rtol=1e-5)


def test_gradient_is_that_of_the_cross_entropy():
    logit, label = jnp.linspace(-5, 5, 11), jnp.tile(jnp.array([0.0, 1.0]), 6)[:11]
    ours = jax.grad(lambda x: straight_through.squared_error(x, label).sum())(logit)
    theirs = jax.grad(lambda x: jnp.sum(jax.nn.softplus(x) - label * x))(logit)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
