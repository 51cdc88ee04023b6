"""Our AdamP against trajectories of the public one, in float64; the rows of a torch leaf are its output units."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vacsr_jax.optim import adamp

OURS = Path(__file__).parent / "golden" / "adamp.npz"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "retrieval" / "golden"
SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 1e-2},
    "nesterov": {"weight_decay": 1e-2, "nesterov": True, "delta": 0.3, "b1": 0.8, "b2": 0.95, "wd_ratio": 0.3},
}


def follow(params, gradients, **options):
    """The params after each step, leaf by leaf [steps, ...]."""
    optimizer = adamp(1e-2, **options)

    @jax.jit
    def run(params, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]

    return run(params, gradients)


def compare(golden, gradients, trajectory, **options):
    names = [name.removesuffix("_init") for name in golden if name.endswith("_init")]
    with jax.enable_x64(True):
        found = follow(
            {name: jnp.asarray(golden[f"{name}_init"]) for name in names},
            {name: jnp.asarray(golden[f"{name}_{gradients}"]) for name in names},
            **options,
        )
        for name in names:
            np.testing.assert_allclose(found[name], golden[f"{name}_{trajectory}"], rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("setting", SETTINGS)
def test_golden_values_of_the_public_adamp(setting):
    compare(np.load(OURS), "gradients", setting, channel_axis=0, **SETTINGS[setting])


@pytest.mark.parametrize(("name", "weight_decay"), [("plain", 0.0), ("wd", 1e-2)])
@pytest.mark.slow
def test_more_golden_values(name, weight_decay):
    file = SHARED / f"adamp_{name}.npz"
    if not file.exists():
        pytest.skip(f"{file} is absent")
    compare(np.load(file), "grads", "traj", channel_axis=0, weight_decay=weight_decay)


@pytest.mark.slow
def test_flax_layouts_are_found_by_name():
    golden = np.load(OURS)
    to_flax = {"w": lambda x: x.T, "conv": lambda x: x.transpose(2, 3, 1, 0), "b": lambda x: x, "emb": lambda x: x}
    names = {"w": "dense/kernel", "conv": "conv/kernel", "b": "dense/bias", "emb": "tokens/embedding"}
    with jax.enable_x64(True):
        params = {names[n]: jnp.asarray(f(golden[f"{n}_init"])) for n, f in to_flax.items()}
        gradients = {names[n]: jnp.stack([f(g) for g in golden[f"{n}_gradients"]]) for n, f in to_flax.items()}
        found = follow(params, gradients, weight_decay=1e-2)
        for n, f in to_flax.items():
            np.testing.assert_allclose(found[names[n]][-1], f(golden[f"{n}_decay"][-1]), rtol=0, atol=1e-10)
