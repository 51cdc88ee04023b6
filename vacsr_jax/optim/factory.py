"""Builds the optimizer that a config names."""

from __future__ import annotations

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from vacsr_jax.optim.adamp import scale_by_adamp
from vacsr_jax.optim.groups import FROZEN, LATE, TRAIN, labels, learning_rates

OPTIMIZERS = ("adamw", "adamp")
SCHEDULES = ("cosine", "step")
DECAYED = ("matrices", "all")


def make_optimizer(config: ConfigDict, params: Any) -> optax.GradientTransformation:
    """Builds AdamW (Loshchilov and Hutter 2019) or AdamP, clipped by global norm, with a learning rate per group.

    Frozen leaves have no moments. If the image tower is frozen at first, its moments and step counts start when it is
    released.

    Raises:
      ValueError: for an unknown choice, a schedule that does not fit the run, or a pattern that matches nothing.
    """
    optim = config.optim
    _check("optim.name", optim.name, OPTIMIZERS)
    _check("optim.decayed", optim.decayed, DECAYED)
    if optim.name == "adamp":
        core = scale_by_adamp(weight_decay=optim.weight_decay, mask=decay_mask(optim.decayed))
    else:
        decay = optax.add_decayed_weights(optim.weight_decay, decay_mask(optim.decayed))
        core = optax.chain(optax.scale_by_adam(), decay)
    late = optax.transforms.conditionally_mask(core, lambda step: step >= optim.image_frozen_steps)
    rates = learning_rates(params, optim)
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.partition({TRAIN: core, LATE: late, FROZEN: optax.set_to_zero()}, labels(params, optim)),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, rate: rate * u, updates, rates)),
        optax.scale_by_learning_rate(learning_rate(config)),
    )


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up, then a cosine to 0, or a constant that falls to a tenth after the fraction optim.step_at.

    An extended run (train.extended_from) has this schedule over the steps that it adds, up to optim.extension_lr.

    Raises:
      ValueError: for an unknown schedule, a warm-up as long as the run, optim.step_at outside (0, 1], or an extension
        without steps or a rate.
    """
    added = config.train.steps - config.train.extended_from
    if not config.train.extended_from:
        return _schedule(config.optim, config.optim.lr, added)
    if added < 1 or config.optim.extension_lr <= 0:
        raise ValueError(
            f"train.extended_from: got {config.train.extended_from} with train.steps={config.train.steps} and "
            f"optim.extension_lr={config.optim.extension_lr}; an extension needs more steps, and a rate above 0"
        )
    later = _schedule(config.optim, config.optim.extension_lr, added)
    return optax.join_schedules([optax.constant_schedule(0.0), later], [config.train.extended_from])


def _schedule(optim: ConfigDict, lr: float, steps: int) -> optax.Schedule:
    _check("optim.schedule", optim.schedule, SCHEDULES)
    if not 0 <= optim.warmup_steps < steps:
        raise ValueError(
            f"optim.warmup_steps: got {optim.warmup_steps} of {steps} steps; make it smaller than train.steps"
        )
    if optim.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, lr, optim.warmup_steps, steps)
    if not 0 < optim.step_at <= 1:
        raise ValueError(f"optim.step_at: got {optim.step_at}, expected a fraction of the run, above 0 and at most 1")
    constant = optax.piecewise_constant_schedule(lr, {round(optim.step_at * steps) - optim.warmup_steps: 0.1})
    if not optim.warmup_steps:
        return constant
    return optax.join_schedules([optax.linear_schedule(0.0, lr, optim.warmup_steps), constant], [optim.warmup_steps])


def decay_mask(decayed: str):
    """Returns a mask of decayed leaves: matrices only, or all but single numbers (scales and biases of a loss)."""
    least = 2 if decayed == "matrices" else 1
    return lambda params: jax.tree.map(lambda x: x.ndim >= least and x.size > 1, params)


def _check(field: str, got: str, choices: tuple[str, ...]) -> None:
    if got not in choices:
        raise ValueError(f"{field}: got {got!r}, expected one of {', '.join(choices)}")
