"""What can be known to be wrong before data are read, or before the first step; a refused run leaves nothing behind."""

from __future__ import annotations

import warnings

import jax
from ml_collections import ConfigDict

from vacsr_jax.data.loader import TrainingItems, batch_at
from vacsr_jax.optim.factory import learning_rate
from vacsr_jax.pair import find_method
from vacsr_jax.training.log_to import choose_services
from vacsr_jax.training.state import TrainState
from vacsr_jax.training.step import Step

# Fields that must be at least this.
LEAST = {
    "seed": 0,
    "data.workers": 0,
    "data.validation_size": 0,
    "train.epochs": 0,
    "train.batch_size": 1,
    "train.tile_pairs": 1,
    "train.text_chunk": 1,
    "train.log_every": 1,
    "checkpoint.every": 1,
    "optim.warmup_steps": 0,
    "optim.average_every": 1,
}
WARMUP_SHARE = 5  # a warm-up that does not fit takes the run's steps over this: the share of the default config


def check_config(config: ConfigDict) -> None:
    """Checks what needs no data.

    Raises:
      ValueError: for a number that is too small, an unknown method, or a schedule that cannot be; it names the field.
    """
    least = LEAST if config.train.epochs else {**LEAST, "train.steps": 1}
    for name, minimum in least.items():
        group, _, field = name.rpartition(".")
        value = (config[group] if group else config)[field]
        if value < minimum:
            raise ValueError(f"{name}: got {value}, expected {minimum} or more")
    find_method(config.method)
    choose_services(config.train.log_to)
    if not config.train.epochs:
        learning_rate(fit_warmup(config, say=False))


def fit_warmup(config: ConfigDict, *, say: bool = True) -> ConfigDict:
    """The config with a warm-up of a fifth of the run where the given one is as long as the run; `say` warns of it."""
    given, steps = config.optim.warmup_steps, config.train.steps - config.train.extended_from
    if given < steps:
        return config
    config = config.copy_and_resolve_references()
    config.optim.warmup_steps = steps // WARMUP_SHARE
    if say:
        warnings.warn(
            f"optim.warmup_steps: {given} do not fit into {steps} steps; the warm-up takes "
            f"{config.optim.warmup_steps}, a fifth of the run",
            stacklevel=2,
        )
    return config.lock()


def check_step(config: ConfigDict, items: TrainingItems, state: TrainState, step: Step) -> None:
    """Traces the step, without computing anything, so that it refuses now what it would refuse when it is compiled."""
    one = batch_at(items, 0, batch_size=1, seed=config.seed)
    one.pop("index")
    shapes = {name: jax.ShapeDtypeStruct((config.train.batch_size, *x.shape[1:]), x.dtype) for name, x in one.items()}
    jax.eval_shape(step, state, shapes)
