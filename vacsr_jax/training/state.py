"""What a run carries from step to step."""

from __future__ import annotations

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import SingleDeviceSharding

from vacsr_jax.models.image_text import ImageTextModel


@flax.struct.dataclass
class TrainState:
    """`step` counts finished steps; randomness is a function of (seed, step), so no key is carried."""

    step: jax.Array
    params: Any
    opt_state: Any


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
