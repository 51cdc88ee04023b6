"""What a run carries from step to step, and the optimizer that moves it."""

from __future__ import annotations

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from vacsr_jax.models.image_text import ImageTextModel


@flax.struct.dataclass
class TrainState:
    """`step` counts finished steps; randomness is a function of (seed, step), so no key is carried."""

    step: jax.Array
    params: Any
    opt_state: Any


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up, cosine decay to 0, and clipping by global norm.

    Weight decay acts on matrices only, not on biases, norms and scales.

    Raises:
      ValueError: if the warm-up is not shorter than the run.
    """
    optim, steps = config.optim, config.train.steps
    if not 0 <= optim.warmup_steps < steps:
        raise ValueError(
            f"optim.warmup_steps: got {optim.warmup_steps} of {steps} steps; make it smaller than train.steps"
        )
    schedule = optax.warmup_cosine_decay_schedule(0.0, optim.lr, optim.warmup_steps, steps)
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(schedule, weight_decay=optim.weight_decay, mask=_is_matrix),
    )


def _is_matrix(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def init_params(model: ImageTextModel, seed: int):
    """Fresh float32 parameters; one compiled call (an eager one takes a third longer)."""
    return jax.jit(functools.partial(_init, model))(jax.random.key(seed))


def abstract_params(model: ImageTextModel):
    """Shapes and types of the parameters, on the first device; nothing is computed."""
    place = SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(functools.partial(_init, model), jax.random.key(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def _init(model: ImageTextModel, key: jax.Array):
    vision, text = model.clip.vision, model.clip.text
    images = jnp.zeros((2, vision.image_size, vision.image_size, 3), jnp.uint8)
    tokens = jnp.full((2, text.context_length), text.end_id, jnp.int32)
    return model.init(key, images, tokens, method="warm_up")["params"]


def init_state(params, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
