"""What a run passes on from step to step."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict


@flax.struct.dataclass
class TrainState:
    """`step` counts finished steps. Randomness is a function of (seed, step), so the state has no key.

    `average` is the mean of the params so far (`running_average`), or None if the config asks for no average.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any = None

    @property
    def final_params(self) -> Any:
        """The parameters to validate, save and return: the average if there is one, else `params`."""
        return self.params if self.average is None else self.average


def init_state(params, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), params if average else None)


def running_average(average: Any, params: Any, step: jax.Array, optim: ConfigDict) -> Any:
    """Stochastic weight averaging (Izmailov et al. 2018) of all parameters, both towers included.

    The mean of the params after steps average_from, average_from + average_every, ...; before these, the params.
    """
    if average is None:
        return None
    since = step - optim.average_from
    count = jnp.maximum(since // optim.average_every, 0)
    share = jnp.where(since < 0, 1.0, jnp.where(since % optim.average_every == 0, 1 / (count + 1), 0.0))
    return jax.lax.cond(
        share > 0, lambda: jax.tree.map(lambda a, p: a + share * (p - a), average, params), lambda: average
    )
