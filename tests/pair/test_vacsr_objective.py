"""The one-pass objective against the loss on every pair's own terms, finite differences, and eight devices."""

import functools
import re

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


def straightforward(params, images, texts, labels, **loss):
    noise = ADAPTER.draw_noise(KEY, len(images), len(texts))
    return vacsr(ADAPTER.apply({"params": params}, images, texts, noise), labels, VALID, **loss)


def in_one_pass(params, images, texts, labels, *, tile_pairs=20, devices=1, dtype=jnp.float32, **loss):
    run = functools.partial(vacsr_objective, ADAPTER, mesh=mesh(devices), tile_pairs=tile_pairs, dtype=dtype)
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
        pytest.param(
            {"hard": "loss", "reduction": "mean", "hard_negatives": 1, "positive": 0.0}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
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


def compiled(devices, n, d, tile_pairs):
    adapter = ADAPTER.clone(dim=d, width=d)
    params = jax.eval_shape(lambda key: adapter.init(key, method="scorer"), KEY)["params"]
    rows = NamedSharding(mesh(devices), P("data"))
    x = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=rows)

    def loss(params, images, texts):
        pairs = jnp.eye(n, dtype=bool), jnp.ones((n, n), bool)
        run = functools.partial(vacsr_objective, adapter, mesh=mesh(devices), tile_pairs=tile_pairs, dtype=jnp.float32)
        return run(params, images, texts, *pairs, KEY, **LOSS, **CHOICES)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(params, x, x).compile()


@pytest.mark.slow
def test_memory_is_the_tiles_not_the_batchs():
    # 256 x 256 pairs: one tensor of all hidden layers is 16.8 MB, the terms of all pairs 0.3 MB each.
    tiled, whole = (compiled(1, 256, 64, pairs).memory_analysis().temp_size_in_bytes for pairs in (512, 10**6))
    assert tiled < 8e6 < 60e6 < whole


@pytest.mark.slow
def test_text_features_are_gathered_once_and_no_tile_communicates():
    text = compiled(8, 32, 48, 16).as_text()
    gathers = [line for line in text.splitlines() if " all-gather(" in line and "f32[32,48]" in line.split("=")[1]]
    in_rows = 1  # the texts, for the tiles; the hard negatives gather rows of both sides once more
    assert in_rows <= len(gathers) <= in_rows + 2, gathers
    collectives = [line for line in text.splitlines() if re.search(r" (all|reduce)-(gather|reduce|scatter)\(", line)]
    assert "while/body" in text
    assert not any("while/body" in line for line in collectives)
