"""AdamP as an optax transformation: masks, schedules, frozen leaves, dtypes, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vacsr_jax
from vacsr_jax.image_text import build_model
from vacsr_jax.optim.adamp import adamp, channel_axis_by_name, scale_by_adamp

RNG = np.random.default_rng(0)
PARAMS = {"kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), "bias": jnp.ones(3)}
GRADIENTS = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS) for _ in range(4)]


def run(optimizer, gradients, params=PARAMS):
    state, updates = optimizer.init(params), None
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_it_is_reached_from_the_package():
    assert vacsr_jax.optim.adamp is adamp


def test_masked_leaves_pass_unchanged_and_have_no_state():
    optimizer = optax.masked(adamp(1e-2), {"kernel": True, "bias": False})
    updates, state = optimizer.update(GRADIENTS[0], optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["bias"], GRADIENTS[0]["bias"])
    plain = adamp(1e-2)
    np.testing.assert_allclose(
        updates["kernel"], plain.update(GRADIENTS[0], plain.init(PARAMS), PARAMS)[0]["kernel"], rtol=1e-6
    )
    assert len(jax.tree.leaves(state)) == 3


def test_a_schedule_gives_what_its_numbers_give():
    scheduled = run(adamp(lambda count: 1e-2 * 0.5**count, weight_decay=0.1), GRADIENTS)[0]
    params, state = PARAMS, adamp(1.0).init(PARAMS)
    for i, gradient in enumerate(GRADIENTS):
        updates, state = adamp(1e-2 * 0.5**i, weight_decay=0.1).update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert_same(scheduled, params)


@pytest.mark.parametrize("nothing", [None, "zeros"])
def test_a_frozen_leaf_stays_and_starts_afresh(nothing):
    frozen = None if nothing is None else jnp.zeros((4, 3))
    held = [{**gradient, "kernel": frozen} for gradient in GRADIENTS[:2]]
    optimizer = adamp(1e-2, weight_decay=0.1)
    params, state = run(optimizer, held)
    np.testing.assert_array_equal(params["kernel"], PARAMS["kernel"])
    assert (state[0].count["kernel"], state[0].count["bias"]) == (0, 2)
    later = run(optimizer, [*held, *GRADIENTS[2:]])[0]
    fresh = run(optimizer, GRADIENTS[2:])[0]
    np.testing.assert_allclose(later["kernel"], fresh["kernel"], rtol=1e-6)


def test_the_mask_of_the_decay():
    still = adamp(1e-2, weight_decay=0.5, mask={"kernel": False, "bias": True}, delta=0.0)
    decayed, plain = run(still, GRADIENTS[:1])[0], run(adamp(1e-2, delta=0.0), GRADIENTS[:1])[0]
    np.testing.assert_array_equal(decayed["kernel"], plain["kernel"])
    np.testing.assert_allclose(decayed["bias"], plain["bias"] - 1e-2 * 0.5 * PARAMS["bias"], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_updates_have_the_dtype_of_the_gradients_and_moments_at_least_float32(dtype):
    params, gradient = (jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (PARAMS, GRADIENTS[0]))
    updates, state = adamp(1e-2).update(gradient, adamp(1e-2).init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves((state[0].mu, state[0].nu))} == {jnp.dtype(jnp.float32)}


def test_steps_compile_once():
    optimizer = adamp(optax.cosine_decay_schedule(1e-2, 10), weight_decay=0.1)
    step = jax.jit(optimizer.update)
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradient in GRADIENTS:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert step._cache_size() == 1


def test_params_may_be_any_tree():
    params = (jnp.ones((2, 3)), [jnp.ones(2), {"a": jnp.ones(())}])
    updates, _ = adamp(0.1).update(jax.tree.map(jnp.ones_like, params), adamp(0.1).init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_no_params_is_an_error():
    with pytest.raises(ValueError, match="needs params"):
        scale_by_adamp().update(PARAMS, scale_by_adamp().init(PARAMS))


def test_the_axis_of_every_leaf_of_a_model():
    from configs import scenes
    from vacsr_jax.image_text import abstract_params
    from vacsr_jax.towers.presets import PRESETS

    params = abstract_params(build_model(scenes.get_config(), PRESETS["ViT-B/32"]))
    axes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): channel_axis_by_name(str(path[-1].key), leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    assert axes["towers/vision/patch_embedding/kernel"] == -1
    assert axes["towers/text/token_embedding"] == axes["towers/vision/position_embedding"] == 0
    assert axes["towers/vision/class_embedding"] is None
    assert axes["towers/text/transformer/block_0/attention/query/kernel"] == -1
    assert axes["towers/logit_scale"] is axes["pair/trunk_bias"] is axes["towers/text/final_norm/scale"] is None
    assert axes["pair/mean_kernel"] == -1
