"""The conjunction of claims by hand in float64, as a cosine, at far logits, and its gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import scenes
from tests.small_models import check_gradient
from vacsr_jax.image_text import build_model
from vacsr_jax.ops.pairwise import map_pairs
from vacsr_jax.pair.conjunction import ConjunctionModel, logit_of_all
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.towers.presets import PRESETS

pytestmark = pytest.mark.usefixtures("compile_fast")
D, K = 6, 3
RNG = np.random.default_rng(0)
IMAGES, TEXTS = RNG.normal(size=(4, D)), RNG.normal(size=(5, D))
PARAMS = {"log_scale": jnp.log(jnp.float32(2.5)), "bias": jnp.array([0.5, -1.0, 2.0])}


def numpy_logit():
    v, t = (np.sqrt(K) * x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGES, TEXTS))
    claims = [2.5 * v[:, part] @ t[:, part].T for part in (slice(0, 2), slice(2, 4), slice(4, 6))]
    match = np.prod([1 / (1 + np.exp(-(a + b))) for a, b in zip(claims, (0.5, -1.0, 2.0), strict=True)], axis=0)
    return np.log(match / (1 - match))


def test_by_hand_in_every_form():
    model, expected = ConjunctionModel(D, K, -1.0), numpy_logit()
    images, texts = (model.prepare(jnp.asarray(x, jnp.float32)) for x in (IMAGES, TEXTS))
    scorer = model.apply({"params": PARAMS}, method="scorer")
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(model.apply({"params": PARAMS}, images, texts), expected, **close)
    np.testing.assert_allclose(scorer.score_tile(images, texts).logit, expected, **close)
    chosen = np.array([[4, 0], [1, 2], [3, 3], [0, 1]])
    listed = scorer.score_listed(images, texts[chosen])
    np.testing.assert_allclose(listed.logit, np.take_along_axis(expected, chosen, 1), **close)
    assert listed.uncertainty is None
    tiled = map_pairs(lambda v, t, _: model.apply({"params": PARAMS}, v, t), images, texts, tile_pairs=4)
    np.testing.assert_allclose(tiled, expected, **close)


@pytest.mark.slow
def test_one_claim_is_the_cosine():
    one = {"log_scale": PARAMS["log_scale"], "bias": jnp.array([-1.0])}
    cosine = {"log_scale": PARAMS["log_scale"], "bias": jnp.float32(-1)}
    sides = [jnp.asarray(x, jnp.float32) for x in (IMAGES, TEXTS)]
    found, expected = (
        model.apply({"params": params}, *(model.prepare(x) for x in sides))
        for model, params in ((ConjunctionModel(D, 1, -1.0), one), (CosineModel(-1.0), cosine))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_match_starts_at_its_logit_where_nothing_is_known():
    model, nothing = ConjunctionModel(D, K, -4.0), jnp.zeros((2, D))
    params = model.init(jax.random.key(0), nothing, nothing)
    np.testing.assert_allclose(model.apply(params, model.prepare(nothing), nothing), np.full((2, 2), -4.0), rtol=1e-5)


def test_far_logits_and_their_gradients():
    """sigmoid(-a^k) / sigmoid(-a) is the gradient; a is the smallest where one is far below 0, or all far above."""
    for logits in ([100.0, 101.0, 100.0], [-100.0, 3.0, 100.0], [-100.0] * 3, [0.0, 1e4, -1e4], [20.0, 14.0, 16.0]):
        value, gradient = jax.jit(jax.value_and_grad(lambda x: logit_of_all(x[:, None, None])[0, 0]))(jnp.array(logits))
        x = np.array(logits)
        u = np.sum(np.logaddexp(0, -x))
        expected = -u if u > 700 else -np.log(np.expm1(u))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        miss = np.exp(-np.logaddexp(0, x) + np.logaddexp(0, expected))
        np.testing.assert_allclose(gradient, miss, rtol=1e-5, atol=1e-30)


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    model = ConjunctionModel(D, K, -1.0)
    with jax.enable_x64(True):
        weights = jnp.asarray(RNG.normal(size=(4, 5)))

        def loss_of(inputs):
            params, images, texts = inputs
            return jnp.sum(weights * model.apply({"params": params}, model.prepare(images), model.prepare(texts)))

        at = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (PARAMS, IMAGES, TEXTS))
        check_gradient(loss_of, at, rtol=1e-7)


def test_a_zero_vector_has_a_finite_gradient():
    model = ConjunctionModel(D, K, -1.0)
    gradient = jax.grad(lambda x: jnp.sum(model.prepare(x) ** 2))(jnp.zeros((1, D)))
    assert np.isfinite(gradient).all()


def test_claims_that_do_not_divide_the_embedding_are_an_error():
    config = scenes.get_config("method=conjunction")
    config.conjunction.claims = 5
    model = build_model(config, PRESETS["tiny"])
    with pytest.raises(ValueError, match=r"conjunction\.claims: got 5, expected a divisor of the 64 dimensions"):
        model.pair.init(jax.random.key(0), jnp.zeros((1, 64)), jnp.zeros((1, 64)))


@pytest.mark.parametrize("method", ["conjunction", "propensity"])
def test_a_pretrained_scale_is_taken_over(method):
    config = scenes.get_config(f"method={method}")
    config.propensity.match = "conjunction"
    pair = {"log_scale": 0.0}
    model = build_model(config, PRESETS["tiny"]).pair
    found = model.with_scale({"match": pair} if method == "propensity" else pair, np.float32(4.6))
    assert (found["match"] if method == "propensity" else found)["log_scale"] == np.float32(4.6)
