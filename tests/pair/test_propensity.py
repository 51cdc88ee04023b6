"""The label logit and both scores by hand in float64, their limits, and gradients against finite differences."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit

from configs import scenes
from tests.small_models import check_gradient, gelu
from vacsr_jax.image_text import build_model, describe, from_description
from vacsr_jax.losses.contrastive import sigmoid
from vacsr_jax.losses.propensity import add_noise_floor
from vacsr_jax.ops.pairwise import map_pairs
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.pair.propensity import PropensityModel, log_match, noise_logit
from vacsr_jax.scoring.pairs import rerank, top_k
from vacsr_jax.towers.base import Encoded
from vacsr_jax.towers.presets import PRESETS

pytestmark = pytest.mark.usefixtures("compile_fast")
RNG = np.random.default_rng(0)
D = 4
IMAGES, TEXTS = RNG.normal(size=(3, D)), RNG.normal(size=(5, D))
ALL_ON = {"plateau": True, "text_propensity": True, "image_propensity": True, "noise_floor": True}


def encoded(x):
    return Encoded(x, tokens=None, valid=None)


def make(**switches):
    """A model with heads moved away from 0, its parameters and prepared embeddings."""
    model = PropensityModel(CosineModel(-1.0), D, **ALL_ON | switches)

    def touch(module, images, texts):
        module.scorer()
        return module(module.prepare_image(images), module.prepare_text(texts))

    images, texts = (encoded(jnp.asarray(x, jnp.float32)) for x in (IMAGES, TEXTS))
    params = model.init(jax.random.key(0), images, texts, method=touch)["params"]
    params = jax.tree.map(lambda x: x + jnp.asarray(0.3 * RNG.normal(size=x.shape), x.dtype), params)
    prepared = (model.apply({"params": params}, x, method=f"prepare_{side}") for side, x in
                (("image", images), ("text", texts)))  # fmt: skip
    return model, params, *prepared


def numpy_head(x, head):
    hidden = x @ np.float64(head["hidden"]["kernel"]) + np.float64(head["hidden"]["bias"])
    return (gelu(hidden) @ np.float64(head["out"]["kernel"]) + np.float64(head["out"]["bias"]))[:, 0]


def numpy_match_logit(params):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGES, TEXTS)]
    match = params["match"]
    return np.exp(np.float64(match["log_scale"])) * unit[0] @ unit[1].T + np.float64(match["bias"])


@pytest.mark.parametrize(
    "switches", [{}, {"plateau": False}, {"text_propensity": False}, {"image_propensity": False}], ids=str
)
def test_both_scores_by_hand(switches):
    model, params, images, texts = make(**switches)
    a = numpy_match_logit(params)
    f = numpy_head(IMAGES, params["image_head"]) if model.image_propensity else np.zeros(3)
    g = numpy_head(TEXTS, params["text_head"]) if model.text_propensity else np.zeros(5)
    match = (log_expit(a) if model.plateau else a) + f[:, None]
    label = match + g + np.float64(params["bias"])
    scorer = model.apply({"params": params}, method="scorer")
    scores = scorer.score_tile(images, texts)
    np.testing.assert_allclose(scores.logit, a, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores.by_match(), match, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores.by_label(), label, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.apply({"params": params}, images, texts), label, rtol=1e-5, atol=1e-5)
    tiled = map_pairs(lambda v, t, _: model.apply({"params": params}, v, t), images, texts, tile_pairs=4)
    np.testing.assert_allclose(tiled, label, rtol=1e-5, atol=1e-5)
    chosen = np.array([[4, 0], [1, 2], [3, 3]])
    listed = scorer.score_listed(images, texts[chosen])
    np.testing.assert_allclose(listed.by_label(), np.take_along_axis(label, chosen, 1), rtol=1e-5, atol=1e-5)


def test_the_best_are_ranked_by_match():
    model, params, images, texts = make()
    scorer = model.apply({"params": params}, method="scorer")
    scores = scorer.score_tile(images, texts)
    order = np.argsort(-np.asarray(scores.match_score), axis=1)
    assert (order != np.argsort(-np.asarray(scores.label_score), axis=1)).any()
    best = top_k(scorer, images, texts, 2)
    np.testing.assert_array_equal(best.index, order[:, :2])
    assert best.uncertainty is None
    again = rerank(scorer, images, texts, order[:, ::-1].copy())
    np.testing.assert_array_equal(again.index, order)


def test_limits_and_their_gradients_are_finite():
    a = jnp.array([-100.0, -30.0, 0.0, 30.0, 100.0])
    labels, valid = jnp.eye(5)[:2], jnp.ones((2, 5), bool)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def loss_of(a, log_odds, propensity):
        r = log_match(a, plateau=True) + propensity
        r = jnp.stack([r, r[::-1]])
        return sigmoid(add_noise_floor(r, log_odds, labels, valid), labels, valid)[0]

    for log_odds in (-100.0, 0.0, 100.0):
        for propensity in (-100.0, 0.0, 100.0):
            found = loss_of(a, log_odds, propensity)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    np.testing.assert_allclose(log_match(a, plateau=True), log_expit(np.float64(a)), rtol=1e-6, atol=1e-30)


def test_gradients_are_those_of_finite_differences():
    model, params, *_ = make()
    labels = np.zeros((3, 5))
    labels[[0, 1, 2, 2], [0, 1, 2, 3]] = 1  # the last image has two captions
    valid = jnp.ones(labels.shape, bool)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)

        def loss_of(params):
            images, texts = (
                model.apply({"params": params}, encoded(jnp.asarray(x)), method=f"prepare_{side}")
                for side, x in (("image", IMAGES), ("text", TEXTS))
            )
            r = model.apply({"params": params}, images, texts)
            marked = jnp.asarray(labels)
            return sigmoid(add_noise_floor(r, noise_logit(params), marked, valid), marked, valid)[0]

        check_gradient(loss_of, params, step=1e-5, directions=3)


@pytest.mark.parametrize("match", ["cosine", "conjunction", "deterministic", "vacsr"])
def test_a_description_holds_the_match_model(match):
    config = scenes.get_config("method=propensity")
    config.propensity.match = match
    model = build_model(config, PRESETS["tiny"])
    assert from_description(json.loads(json.dumps(describe(model)))) == model
    damaged = describe(model)
    damaged["pair"]["match"]["type"] = "NoModel"
    with pytest.raises(ValueError, match="NoModel"):
        from_description(damaged)


def test_an_unknown_match_is_an_error():
    config = scenes.get_config("method=propensity")
    config.propensity.match = "infonce"
    with pytest.raises(ValueError, match=r"propensity\.match: got 'infonce'"):
        build_model(config, PRESETS["tiny"])
