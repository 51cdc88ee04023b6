"""The towers with GPO heads and variance branches: shapes, parameters of each method, and descriptions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import scenes
from tests.small_models import random_like
from vacsr_jax.image_text import abstract_params, build_model, describe, from_description
from vacsr_jax.pair import METHODS
from vacsr_jax.towers.pooling import LogVarBranch
from vacsr_jax.towers.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
TINY = PRESETS["tiny"]


def model_of(clip=TINY, **fields):
    config = scenes.get_config()
    config.update_from_flattened_dict(fields)
    return build_model(config, clip)


FIELDS = {"method": "pcmepp", "model.pooling": "gpo", "model.embedding_dim": 24, "pcmepp.variance": 0.5}


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    tokens = np.full((3, 20), TINY.text.pad_id, np.int32)
    for i, n in enumerate((4, 9, 12)):
        tokens[i, : n + 2] = [1, *rng.integers(3, 400, n), 2]
    return images, tokens


@pytest.fixture(scope="module")
def encoded():
    """Every output for the batch, from one compiled function with random parameters."""
    model = model_of(**FIELDS)
    params = random_like(abstract_params(model), np.random.default_rng(0), scale=0.3)
    images, tokens = batch()

    @jax.jit
    def run(params, images, tokens):
        def encode(method, *inputs):
            return model.apply({"params": params}, *inputs, method=f"encode_{method}")

        keep = jnp.ones((3, 4), bool)
        return {
            "images": encode("image", images),
            "all kept": encode("image", images, keep),
            "one dropped": encode("image", images, keep.at[:, 2].set(False)),
            "texts": encode("text", tokens),
            "texts, fewer pads": encode("text", tokens[:, :14]),
        }

    return jax.device_get(run(params, images, tokens))


def test_an_item_is_a_unit_mean_and_a_variance(encoded):
    for name in ("images", "texts"):
        mean, log_var = np.split(encoded[name], 2, axis=1)
        assert mean.shape == (3, 24)
        np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, rtol=1e-5)
        assert np.all(np.ptp(log_var, axis=0) > 0)


def test_the_variance_starts_where_it_is_told_to():
    np.testing.assert_allclose(24 * np.exp(model_of(**FIELDS).initial_log_var), 0.5)
    branch = LogVarBranch(TINY.text, 1e-5, 6, 0, -2.0)
    x, valid = jnp.ones((1, 3, TINY.text.width)), jnp.ones((1, 3), bool)
    np.testing.assert_array_equal(jax.jit(branch.init)(jax.random.key(0), x, valid)["params"]["bias"], -2)


def test_only_kept_tokens_reach_an_image_and_pads_never_reach_a_text(encoded):
    np.testing.assert_allclose(encoded["all kept"], encoded["images"], rtol=1e-4, atol=1e-5)
    assert np.all(np.abs(encoded["one dropped"] - encoded["images"]).max(axis=1) > 1e-3)
    np.testing.assert_allclose(encoded["texts, fewer pads"], encoded["texts"], rtol=1e-3, atol=1e-4)


def test_gpo_takes_the_place_of_the_towers_own_projections():
    params = abstract_params(model_of(**FIELDS))
    assert set(params) == {"towers", "pair", "image_head", "text_head", "image_spread", "text_spread"}
    towers = params["towers"]
    assert set(towers) == {"vision", "text", "logit_scale"}
    assert "post_norm" not in towers["vision"]
    assert "final_norm" in towers["text"]
    plain = abstract_params(model_of(method="pcmepp"))
    assert {"vision_projection", "text_projection"} < set(plain["towers"])
    assert set(plain) == {"towers", "pair", "image_spread", "text_spread"}


@pytest.mark.slow
def test_the_published_heads_have_the_published_sizes():
    fields = {"model.pooling": "gpo", "model.embedding_dim": 1024}
    params = abstract_params(model_of(PRESETS["ViT-B/32"], method="pcmepp", **fields))
    assert params["image_head"]["projection"]["kernel"].shape == (768, 1024)
    assert params["text_head"]["projection"]["kernel"].shape == (512, 1024)
    block = params["image_spread"]["block"]
    assert jax.tree.map(jnp.shape, block) == jax.tree.map(
        jnp.shape, params["towers"]["vision"]["transformer"]["block_0"]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pooling", ["clip", "gpo"])
def test_descriptions_survive_json(method, pooling):
    model = model_of(method=method, **{"model.pooling": pooling})
    assert from_description(json.loads(json.dumps(describe(model)))) == model


def test_scale_and_bias_stay_where_they_are_told_to():
    model = model_of(method="sigmoid", **{"cosine.scale": 3.0, "cosine.learn_scale": False}).pair
    x = jnp.eye(2)
    params = model.init(jax.random.key(0), x, x)
    np.testing.assert_allclose(model.apply(params, x, x)[0, 0] - model.apply(params, x, x)[0, 1], 3, rtol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(model.apply(p, x, x) ** 2))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.pooling": "max"}, r"model\.pooling: got 'max'"),
        ({"model.embedding_dim": 1024}, r"model\.embedding_dim: got 1024"),
        ({"method": "pcme"}, "method: got 'pcme'"),
    ],
)
def test_wrong_choices_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        model_of(**fields)
