"""The cosine and the deterministic adapter by hand, and what all pair models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from tests.small_models import gelu
from vacsr_jax.pair.adapter import DeterministicAdapter, scale_embedding
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.pair.pcmepp import gaussian

D, H = 5, 7


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_gelu_is_within_a_thousandth_of_the_exact_one():
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), 0.5 * x * (1 + erf(x / np.sqrt(2))), atol=1e-3)


def test_prepared_embeddings():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(CosineModel(0.0).prepare(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(scale_embedding(x, "unit"), np.sqrt(2) * np.array([[0.6, 0.8], [0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(scale_embedding(x, "raw"), x)
    with pytest.raises(ValueError, match="expected one of unit, raw"):
        scale_embedding(x, "units")


def test_a_zero_vector_has_a_finite_gradient():
    def total(x, prepare):
        return jnp.sum(prepare(x) * normal(2, 3))

    x = jnp.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    mean_of = lambda x: gaussian(x, jnp.zeros((2, 3)))[:, :3]  # noqa: E731
    for prepare in (CosineModel(0.0).prepare, lambda x: scale_embedding(x, "unit"), mean_of):
        value, gradient = jax.value_and_grad(total)(x, prepare)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_cosine_and_deterministic_by_hand():
    images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (normal(4, D), normal(6, D, seed=1)))
    params = {"log_scale": jnp.log(jnp.float32(3.0)), "bias": jnp.float32(-1.0)}
    np.testing.assert_allclose(
        CosineModel(0.0).apply({"params": params}, images, texts), 3 * images @ texts.T - 1, rtol=1e-4, atol=1e-5
    )
    adapter = DeterministicAdapter(dim=D, width=H, embeddings="unit", initial_logit=0.0)
    params = {"trunk_kernel": normal(D, H), "trunk_bias": normal(H), "head": normal(H, 1), "bias": normal(1)}
    hidden = gelu(np.asarray(images)[:, None] * np.asarray(texts)[None] @ params["trunk_kernel"] + params["trunk_bias"])
    expected = hidden @ params["head"][:, 0] + params["bias"]
    np.testing.assert_allclose(adapter.apply({"params": params}, images, texts), expected, atol=1e-5)
