import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from vacsr_jax.training.state import TrainState, running_average


def test_the_average_is_the_mean_of_the_snapshots_of_every_leaf():
    optim = default.get_config().optim
    optim.average_from, optim.average_every = 4, 3
    params = {"towers": {"vision": jnp.zeros(2), "text": jnp.ones(())}, "pair": jnp.zeros(1)}
    update = jax.jit(lambda average, params, step: running_average(average, params, step, optim))
    average, seen = params, []
    for step in range(1, 13):
        now = jax.tree.map(lambda x, step=step: x + step**2, params)
        average = update(average, now, jnp.int32(step))
        if step < 4:
            expected = now
        elif (step - 4) % 3 == 0:
            seen.append(now)
            expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *seen)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), average, expected)
    assert len(seen) == 3


def test_the_final_params_are_the_average_if_there_is_one():
    assert TrainState(0, "params", None).final_params == "params"
    assert TrainState(0, "params", None, "average").final_params == "average"
    assert running_average(None, {}, 1, default.get_config().optim) is None
