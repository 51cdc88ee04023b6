"""The one-pass objective against the loss on every pair's own terms, finite differences, and eight devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.small_models import check_gradient, random_params, variational_adapter
from vacsr_jax.losses.vacsr import vacsr
from vacsr_jax.pair.vacsr_objective import vacsr_objective

B, D, K = 8, 6, 2
ADAPTER = variational_adapter(D, 7, components=K)
pytestmark = pytest.mark.usefixtures("compile_fast")
LOSS = {"kl": 0.3, "recon": 1.0, "positive": 0.7, "negative": 0.9}
CHOICES = {"hard_negatives": 2, "hard": "similarity", "reduction": "row"}
KEY = jax.random.key(5)


def mesh(devices=1):
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def batch(adapter=ADAPTER, n=B, scale=0.7):
    rng = np.random.default_rng(0)
    params = random_params(adapter, rng, scale)
    images, texts = (jnp.asarray(rng.normal(size=(n, adapter.dim)), jnp.float32) for _ in range(2))
    group = jnp.asarray([0, 0, *range(1, n - 1)])
    return params, images, texts, group[:, None] == group[None, :]


VALID = jnp.ones((B, B), bool).at[:, -1].set(False)


def straightforward(params, images, texts, labels, adapter=ADAPTER, **loss):
    noise = adapter.draw_noise(KEY, len(images), len(texts))
    return vacsr(adapter.apply({"params": params}, images, texts, noise), labels, VALID, **loss)


def in_one_pass(params, images, texts, labels, *, tile_pairs=20, devices=1, dtype=jnp.float32, adapter=ADAPTER, **loss):
    run = functools.partial(vacsr_objective, adapter, mesh=mesh(devices), tile_pairs=tile_pairs, dtype=dtype)
    return run(params, images, texts, labels, VALID, KEY, **loss)


def values_and_gradients(objective, labels, *inputs, **loss):
    function = jax.jit(jax.value_and_grad(lambda *x: objective(*x, labels, **loss), argnums=(0, 1, 2), has_aux=True))
    (_, terms), gradients = function(*inputs)
    return terms, gradients


def assert_near(found, expected, tolerance):
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        error = np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-3)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"adapter": dataclasses.replace(ADAPTER, bounded=True)},
        pytest.param(
            {"hard": "loss", "reduction": "mean", "hard_negatives": 1, "positive": 0.0}, marks=pytest.mark.slow
        ),
    ],
    ids=["default", "bounded", "other choices"],
)
@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_loss_on_all_terms(choices):
    params, images, texts, labels = batch()
    loss = LOSS | CHOICES | choices
    expected = values_and_gradients(straightforward, labels, params, images, texts, **loss)
    assert_near(values_and_gradients(in_one_pass, labels, params, images, texts, **loss), expected, 1e-5)


@pytest.mark.slow
def test_tiles_and_devices_change_nothing():
    params, images, texts, labels = batch()
    loss = LOSS | CHOICES
    expected = values_and_gradients(in_one_pass, labels, params, images, texts, **loss)
    sharded = functools.partial(in_one_pass, tile_pairs=5, devices=8)
    images, texts = (jax.device_put(x, NamedSharding(mesh(8), P("data"))) for x in (images, texts))
    assert_near(values_and_gradients(sharded, labels, params, images, texts, **loss), expected, 1e-5)


@pytest.mark.slow
def test_half_precision_is_near():
    params, images, texts, labels = batch()
    loss = LOSS | CHOICES
    expected = values_and_gradients(in_one_pass, labels, params, images, texts, **loss)
    half = values_and_gradients(
        functools.partial(in_one_pass, dtype=jnp.bfloat16), labels, params, images, texts, **loss
    )
    assert_near(half, expected, 5e-2)
    with pytest.raises(AssertionError):
        assert_near(half, expected, 1e-5)


@pytest.mark.slow
def test_gradients_against_finite_differences():
    # Leaves out what has no true gradient: the constant error in the variance loss, and the straight-through sigmoid.
    loss = LOSS | CHOICES | {"recon": 0.0, "positive": 0.0, "negative": 0.0}
    with jax.enable_x64(True):
        params, images, texts, labels = batch(scale=0.3)
        inputs = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (params, images, texts))
        check_gradient(lambda inputs: in_one_pass(*inputs, labels, dtype=jnp.float64, **loss)[0], inputs)
