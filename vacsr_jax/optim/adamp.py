"""AdamP (Heo et al. 2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers") as an optax transformation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

ChannelAxis = Callable[[str, jax.Array], int | None]


class AdamPState(NamedTuple):
    """The steps that each leaf has taken, and the moments of its gradient in float32 or wider."""

    count: optax.Updates
    mu: optax.Updates
    nu: optax.Updates


class _Moved(NamedTuple):
    update: Any
    count: Any
    mu: Any
    nu: Any


def channel_axis_by_name(path: str, leaf: jax.Array) -> int | None:
    """Returns the axis of a leaf's output units, from the name that Flax gives it; None: the leaf is never projected.

    The axis is the first for an embedding and the last for everything else, as in the kernels of Dense and Conv. It is
    None for biases, scales, and leaves of fewer than two axes.
    """
    name = path.rpartition("/")[2]
    if leaf.ndim < 2 or name.endswith(("bias", "scale")):
        return None
    return 0 if name.endswith("embedding") else -1


def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    nesterov: bool = False,
    *,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    channel_axis: ChannelAxis | int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamP: `scale_by_adamp`, weight decay included, times minus the learning rate (a number or a schedule)."""
    return optax.chain(
        scale_by_adamp(b1, b2, eps, weight_decay, delta, wd_ratio, nesterov, mask=mask, channel_axis=channel_axis),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_adamp(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    nesterov: bool = False,
    *,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    channel_axis: ChannelAxis | int | None = None,
) -> optax.GradientTransformation:
    """Adam's direction, without its radial part where weights are scale-invariant, plus weight decay.

    Heo et al. 2021, algorithm 3. A leaf counts as scale-invariant if the largest |cos(gradient, weights)| over its
    output units is below delta / sqrt(weights per unit), or else if this holds for the leaf as one vector. For such a
    leaf the part of the direction along the weights is removed, and the decay is multiplied by `wd_ratio`. (The paper's
    eq. 11 lacks the absolute value; the authors' code has it.)

    A leaf whose gradient is None or all zero is frozen: it does not move or decay, and its moments and step count stay,
    so that bias correction starts when the leaf does.

    Args:
      mask: which leaves are decayed: a tree of bools, or a function from params to one. None: all.
      channel_axis: the axis of a leaf's output units, as one number for all leaves or as a function of path
        ("a/b/kernel") and leaf. If the function returns None, the leaf is never projected. Default:
        `channel_axis_by_name`.

    Raises:
      ValueError: if `update` is called without params.
    """
    axis_of: ChannelAxis
    if channel_axis is None:
        axis_of = channel_axis_by_name
    elif callable(channel_axis):
        axis_of = channel_axis
    else:
        axis_of = lambda path, leaf: channel_axis if leaf.ndim > 1 else None  # noqa: E731

    def init(params):
        def zeros():
            return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)

        return AdamPState(jax.tree.map(lambda p: jnp.zeros((), jnp.int32), params), zeros(), zeros())

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("adamp: update needs params; call optimizer.update(gradients, state, params)")
        decayed = mask(params) if callable(mask) else mask
        decayed = jax.tree.map(lambda p: True, params) if decayed is None else decayed

        def one(path, gradient, weights, count, mu, nu, decay):
            if gradient is None:
                return _Moved(jnp.zeros_like(weights), count, mu, nu)  # optax.apply_updates does not accept None
            g, w = gradient.astype(mu.dtype), weights.astype(mu.dtype)
            moves = jnp.any(g != 0)
            new_count = jnp.where(moves, optax.safe_increment(count), count)
            new_mu, new_nu = (jnp.where(moves, b * m + (1 - b) * x, m) for b, m, x in ((b1, mu, g), (b2, nu, g * g)))
            steps = jnp.maximum(new_count, 1).astype(mu.dtype)
            root = jnp.sqrt(new_nu) / jnp.sqrt(1 - b2**steps) + eps
            direction = (b1 * new_mu + (1 - b1) * g if nesterov else new_mu) / root
            direction, ratio = project(direction, g, w, axis_of(path, weights), eps, delta, wd_ratio)
            step = direction / (1 - b1**steps) + (weight_decay * ratio * w if decay else 0)
            return _Moved(jnp.where(moves, step, 0).astype(gradient.dtype), new_count, new_mu, new_nu)

        new = jax.tree.map_with_path(
            lambda path, *leaves: one(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves),
            updates,
            params,
            *state,
            decayed,
            is_leaf=lambda x: x is None,
        )
        updates, *state = (jax.tree.map(lambda x, i=i: x[i], new, is_leaf=_is_moved) for i in range(4))
        return updates, AdamPState(*state)

    return optax.GradientTransformation(init, update)


def _is_moved(x) -> bool:
    return isinstance(x, _Moved)


def project(direction, g, w, axis: int | None, eps: float, delta: float, wd_ratio: float):
    """Removes the direction's part along scale-invariant weights; returns it with the factor of the decay."""
    if axis is None:
        return direction, 1.0
    units = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    whole = tuple(range(w.ndim))
    by_unit, unit_applies = tangential(direction, g, w, units, eps, delta)
    by_layer, layer_applies = tangential(direction, g, w, whole, eps, delta)
    projected = jnp.where(unit_applies, by_unit, jnp.where(layer_applies, by_layer, direction))
    return projected, jnp.where(unit_applies | layer_applies, wd_ratio, 1.0)


def tangential(direction, g, w, axes: tuple[int, ...], eps: float, delta: float):
    """Returns the direction minus its part along w (vectors run over `axes`), and whether w is scale-invariant."""

    def total(x):
        return jnp.sum(x, axis=axes, keepdims=True)

    norm_g, norm_w = jnp.sqrt(total(g * g)), jnp.sqrt(total(w * w))
    cosine = jnp.abs(total(g * w)) / (jnp.maximum(norm_g, eps) * jnp.maximum(norm_w, eps))
    applies = jnp.max(cosine) < delta / math.sqrt(math.prod(w.shape[i] for i in axes))
    unit = w / (norm_w + eps)
    return direction - unit * total(unit * direction), applies
