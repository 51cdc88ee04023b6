"""Sums over pairs and their gradient against the plain sum of all of them, for grids that no tile divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.ops.pair_sums import sum_pairs


def function(scale, images, texts, per_pair):
    weight, shift = per_pair
    values = jnp.sin(scale * (images @ texts.T) + shift)
    return jnp.sum(weight * values), {"count": jnp.sum(weight)}, values


def inputs(n=7, m=11, d=3):
    rng = np.random.default_rng(0)
    images, texts = (jnp.asarray(rng.normal(size=(x, d)), jnp.float32) for x in (n, m))
    return jnp.float32(0.7), images, texts, tuple(jnp.asarray(rng.normal(size=(2, n, m)), jnp.float32))


@pytest.mark.parametrize("tile_pairs", [1, 12, 10**6])
def test_sums_and_gradients_are_those_of_all_pairs_at_once(tile_pairs):
    *inner, per_pair = inputs()
    total, sums, values = sum_pairs(function, tile_pairs, *inner, per_pair)
    expected = function(*inner, per_pair)
    np.testing.assert_allclose(total, expected[0], rtol=1e-5)
    np.testing.assert_allclose(sums["count"], expected[1]["count"], rtol=1e-4)
    np.testing.assert_allclose(values, expected[2], atol=1e-5)
    found = jax.grad(lambda *x: 3 * sum_pairs(function, tile_pairs, *x, per_pair)[0], argnums=(0, 1, 2))(*inner)
    plain = jax.grad(lambda *x: 3 * function(*x, per_pair)[0], argnums=(0, 1, 2))(*inner)
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
