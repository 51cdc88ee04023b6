"""Adapters that start as a cosine: at the start, after it, and in all forms in which they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_models import gelu, random_like, variational_adapter
from vacsr_jax.pair import describe_pair_model, pair_model_from
from vacsr_jax.pair.adapter import DeterministicAdapter
from vacsr_jax.pair.propensity import PropensityModel
from vacsr_jax.pair.vacsr_terms import summed_terms, term_parameters

pytestmark = pytest.mark.slow

D, H = 6, 5
RNG = np.random.default_rng(0)
IMAGES, TEXTS = RNG.normal(size=(3, D)), RNG.normal(size=(4, D))
UNIT = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGES, TEXTS)]
COSINE = UNIT[0] @ UNIT[1].T
ITEMS = [jnp.asarray(x * D**0.5, jnp.float32) for x in UNIT]
ADAPTERS = {
    "deterministic": DeterministicAdapter(D, H, "unit", -2.0, residual=True),
    "vacsr": variational_adapter(D, H, residual=True),
    "vacsr, hidden decoder": variational_adapter(D, H, decoder_width=3, residual=True),
}


def start(adapter):
    return adapter.init(jax.random.key(0), method="scorer")["params"]


def moved(adapter):
    return jax.tree.map(jnp.asarray, random_like(start(adapter), np.random.default_rng(1), scale=0.5))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_start_is_the_cosine_itself(name):
    adapter = ADAPTERS[name]
    params = adapter.with_scale(start(adapter), np.float32(np.log(30.0)), np.float32(-2 - 30 * 0.2))
    logit = adapter.apply({"params": params}, method="scorer").score_tile(*ITEMS).logit
    np.testing.assert_allclose(logit, 30 * (COSINE - 0.2) - 2, rtol=1e-5, atol=1e-4)


def test_the_deterministic_adapter_by_hand():
    adapter, params = ADAPTERS["deterministic"], moved(ADAPTERS["deterministic"])
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    s = D * UNIT[0][:, None] * UNIT[1][None]
    m = gelu(s @ p["trunk_kernel"] + p["trunk_bias"]) @ p["head"][:, 0] + p["bias"]
    expected = np.exp(p["log_scale"]) * COSINE + m
    scorer = adapter.apply({"params": params}, method="scorer")
    np.testing.assert_allclose(scorer.score_tile(*ITEMS).logit, expected, rtol=1e-4, atol=1e-4)
    listed = scorer.score_listed(ITEMS[0], jnp.stack([ITEMS[1]] * 3)).logit
    np.testing.assert_allclose(listed, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_variational_adapter_gives_the_same_in_training_scoring_and_sampling():
    adapter, params = ADAPTERS["vacsr"], moved(ADAPTERS["vacsr"])
    plain = {name: x for name, x in params.items() if name != "log_scale"}
    without = variational_adapter(D, H)
    added = np.exp(np.asarray(params["log_scale"])) * COSINE
    noise = adapter.draw_noise(jax.random.key(1), 3, 4)
    ours = adapter.apply({"params": params}, *ITEMS, noise)
    theirs = without.apply({"params": plain}, *ITEMS, noise)
    for field in ("score", "logit"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field) + added, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.kl, theirs.kl, rtol=1e-5)
    scored = adapter.apply({"params": params}, method="scorer").score_tile(*ITEMS)
    np.testing.assert_allclose(scored.logit, ours.score, rtol=1e-4, atol=1e-4)
    prepared = term_parameters(adapter, params, jnp.float32)
    summed = summed_terms(adapter, prepared, ITEMS[0][:, None] * ITEMS[1][None], noise, None)
    np.testing.assert_allclose(summed.logit, ours.logit, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(summed.score, ours.score, rtol=1e-4, atol=1e-4)
    drawn, other = (
        model.apply({"params": p}, jax.random.key(2), *ITEMS, 2, method="sample")
        for model, p in ((adapter, params), (without, plain))
    )
    np.testing.assert_allclose(drawn, other + added, rtol=1e-4, atol=1e-4)


def test_an_adapter_without_it_keeps_its_parameters_and_description():
    adapter = DeterministicAdapter(D, H, "unit", -2.0)
    assert "log_scale" not in start(adapter)
    assert adapter.with_scale({"bias": 1}, 0.0) == {"bias": 1}
    description = describe_pair_model(adapter)
    assert "residual" not in description  # models saved before there was such a field are described alike
    assert pair_model_from(description) == adapter
    for residual in ADAPTERS.values():
        assert pair_model_from(describe_pair_model(residual)) == residual
    wrapped = PropensityModel(ADAPTERS["vacsr"], D, True, True, True, True, unit=True)
    assert pair_model_from(describe_pair_model(wrapped)) == wrapped


def test_raw_embeddings_have_no_cosine():
    adapter = DeterministicAdapter(D, H, "raw", -2.0, residual=True)
    with pytest.raises(ValueError, match=r"adapter.residual: got true with adapter.embeddings=raw"):
        start(adapter)
