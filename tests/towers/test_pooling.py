"""GPO against torch's packed GRU (tests/parity/make_torch_golden.py) and the public code's values."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.towers import pooling as gpo_module
from vacsr_jax.towers.pooling import GPO, sinusoids

OURS = Path(__file__).parents[1] / "parity" / "golden" / "gpo.npz"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "retrieval" / "golden" / "gpo.npz"
TORCH = {"input_kernel": "weight_ih", "input_bias": "bias_ih", "state_kernel": "weight_hh", "state_bias": "bias_hh"}


def params_of(golden):
    params = {"readout_kernel": golden["param_linear.weight"].T}
    for name, theirs in TORCH.items():
        params[f"forward_{name}"] = golden[f"param_gru.{theirs}_l0"].T
        params[f"backward_{name}"] = golden[f"param_gru.{theirs}_l0_reverse"].T
    return jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("file", [OURS, SHARED], ids=["ours", "shared"])
def test_golden_values(file, monkeypatch):
    if not file.exists():
        pytest.skip(f"{file} is absent")
    golden = np.load(file)
    x, lengths = golden["x"], golden["lengths"]
    length = x.shape[1]
    with jax.enable_x64(True):
        if "pe9" in golden:  # the public code's positions went through float32
            np.testing.assert_allclose(sinusoids(9, 32), golden["pe9"], rtol=0, atol=1e-6)
            monkeypatch.setattr(gpo_module, "sinusoids", lambda *shape: jnp.asarray(golden["pe9"]))
        params = params_of(golden)
        width = params["readout_kernel"].shape[0]
        gpo = GPO(length, width)
        valid = np.arange(length) < lengths[:, None]

        @jax.jit
        def run(params, x, valid):
            params = {"params": params}
            return gpo.apply(params, x, valid), gpo.apply(params, length, method="weights")

        pooled, table = run(params, x, valid)
        np.testing.assert_allclose(pooled, golden["out"], rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            table[lengths - 1], golden["weights"].reshape(len(lengths), length), rtol=0, atol=1e-10
        )


@pytest.fixture(scope="module")
def tiny():
    """`pool(x, valid)` of a small random GPO, compiled."""
    gpo = GPO(6, 8)
    params = jax.jit(gpo.init)(jax.random.key(0), jnp.zeros((1, 6, 3)), jnp.ones((1, 6), bool))
    return jax.jit(lambda x, valid: gpo.apply(params, x, valid))


def test_it_has_as_many_parameters_as_published():
    params = jax.eval_shape(GPO(4).init, jax.random.key(0), jnp.zeros((1, 4, 3)), jnp.ones((1, 4), bool))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 12_704


def test_neither_the_place_of_valid_tokens_nor_what_the_others_hold_matters(tiny):
    x = np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32)
    valid = np.array([[True, False, True, True, False, False]])
    moved, wild = x[:, [0, 2, 3, 1, 4, 5]], np.where(valid[..., None], x, 1e9)
    first = tiny(x, valid)
    np.testing.assert_allclose(tiny(moved, np.arange(6)[None] < 3), first, rtol=1e-6)
    np.testing.assert_allclose(tiny(wild, valid), first, rtol=1e-6)
    # Rows may be shorter than the model's longest.
    np.testing.assert_allclose(tiny(moved[:, :4], np.arange(4)[None] < 3), first, rtol=1e-6)


@pytest.mark.slow
def test_gradients_are_finite_and_those_of_invalid_tokens_zero(tiny):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3)), jnp.float32)
    valid = jnp.asarray([[True] * 2 + [False] * 4, [True] * 6])
    gradient = jax.grad(lambda x: jnp.sum(tiny(x, valid) ** 2))(x)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[0, 2:])
    assert np.all(gradient[0, :2] != 0)


def test_too_many_tokens_are_an_error(tiny):
    with pytest.raises(ValueError, match="got 7 tokens, expected 6"):
        tiny(jnp.zeros((1, 7, 3)), jnp.ones((1, 7), bool))
