"""Pools a tower's tokens to one vector: generalized pooling (GPO), and the branch that gives a variance.

GPO: Chen et al. 2021, "Learning the Best Pooling Strategy for Visual Semantic Embedding".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.transformer import Block

TEMPERATURE = 0.1  # of the softmax over positions, as in the authors' code
# How an item's tokens become one vector. "clip": the tower's own pooling (class token, end token or mean). "gpo": GPO.
POOLING = ("clip", "gpo")


class GPO(nn.Module):
    """sum_k w_k x_(k): each feature is sorted over the valid tokens, largest first, and weighed by its rank.

    The weights (`weights`) depend only on the number of tokens. A GRU runs over sinusoidal positions in both
    directions; a linear readout of the mean of its directions gives scores; a softmax at temperature 0.1 gives the
    weights (Chen et al. 2021, section 3). 12,704 parameters at width 32.

    Attributes:
      max_length: the largest number of tokens.
      width: the width of positions and GRU.
    """

    max_length: int
    width: int = 32

    def setup(self):
        init = nn.initializers.uniform(2 * self.width**-0.5)

        def param(name, *shape):
            return self.param(name, lambda key: init(key, shape) - self.width**-0.5)

        self.forward_gru, self.backward_gru = (
            GRU(
                param(f"{way}_input_kernel", self.width, 3 * self.width),
                param(f"{way}_input_bias", 3 * self.width),
                param(f"{way}_state_kernel", self.width, 3 * self.width),
                param(f"{way}_state_bias", 3 * self.width),
            )
            for way in ("forward", "backward")
        )
        self.readout_kernel = param("readout_kernel", self.width, 1)

    def __call__(self, x: Float[Array, "b l d"], valid: Bool[Array, "b l"]) -> Float[Array, "b d"]:
        """Pools rows that have at least one valid token.

        Raises:
          ValueError: for more tokens than `max_length`.
        """
        length = x.shape[1]
        if length > self.max_length:
            raise ValueError(f"GPO: got {length} tokens, expected {self.max_length} at most")
        count = valid.sum(axis=1)
        weights = self.weights(length)[count - 1]
        ordered = -jnp.sort(jnp.where(valid[..., None], -x, jnp.inf), axis=1)
        inside = jnp.arange(length) < count[:, None]
        return jnp.einsum("bld,bl->bd", jnp.where(inside[..., None], ordered, 0), weights)

    def weights(self, length: int) -> Float[Array, "n p"]:
        """[length, length]: row n - 1 holds the weights of n tokens by rank, then zeros."""
        positions = sinusoids(length, self.width)
        counts = jnp.arange(1, length + 1)

        # A longer row starts with the forward states of a shorter one. The backward states differ for each length.
        def ahead(state, x):
            state = self.forward_gru(state, x)
            return state, state

        def back(state, place_and_x):
            place, x = place_and_x
            state = jnp.where((place < counts)[:, None], self.backward_gru(state, x), 0)
            return state, state

        _, forward = jax.lax.scan(ahead, jnp.zeros((1, self.width), positions.dtype), positions)
        start = jnp.zeros((length, self.width), positions.dtype)
        # Reversed arrays rather than reverse=True, which converters to ONNX do not know.
        _, backward = jax.lax.scan(back, start, (jnp.arange(length)[::-1], positions[::-1]))
        states = (forward + backward[::-1]) / 2  # [p n w]
        scores = (states @ self.readout_kernel)[..., 0].T / TEMPERATURE
        return jax.nn.softmax(scores, axis=1, where=jnp.arange(length) < counts[:, None])


class GRU(NamedTuple):
    """One direction of a gated recurrent unit (Cho et al. 2014), with torch's order of gates: reset, update, candidate.

    h' = (1 - z) n + z h with n = tanh(W_n x + b_n + r (U_n h + c_n)).
    """

    input_kernel: Float[Array, "w w3"]
    input_bias: Float[Array, " w3"]
    state_kernel: Float[Array, "w w3"]
    state_bias: Float[Array, " w3"]

    def __call__(self, state: Float[Array, "n w"], x: Float[Array, " w"]) -> Float[Array, "n w"]:
        from_input = jnp.split(x @ self.input_kernel + self.input_bias, 3, axis=-1)
        from_state = jnp.split(state @ self.state_kernel + self.state_bias, 3, axis=-1)
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(from_input[:2], from_state[:2], strict=True))
        candidate = jnp.tanh(from_input[2] + reset * from_state[2])
        return (1 - update) * candidate + update * state


def sinusoids(length: int, width: int) -> Float[Array, "p w"]:
    """Alternating sin and cos of p / 10000^(2 i / width) (Vaswani et al. 2017), p = 0 .. length - 1."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width), float)


class GPOHead(nn.Module):
    """GPO over projected tokens: Linear(w -> d) on each token, then `GPO` (Chun 2024, PCME++, section 3)."""

    dim: int
    max_length: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b l w"], valid: Bool[Array, "b l"]) -> Float[Array, "b d"]:
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.dim, dtype=self.dtype, kernel_init=init, name="projection")(tokens)
        return GPO(self.max_length, name="gpo")(x.astype(jnp.float32), valid)


class LogVarBranch(nn.Module):
    """log sigma^2 of an item: one more block beside the tower's last one, then projection and pooling (Chun 2024).

    Attributes:
      tower: the tower's config; the block has its width and heads.
      eps: the epsilon of the block's layer norms.
      dim: the dimension of the embedding.
      max_length: the largest number of tokens, for GPO; 0: the mean over valid tokens, then the projection.
      initial: log sigma^2 at the start.
    """

    tower: VisionConfig | TextConfig
    eps: float
    dim: int
    max_length: int
    initial: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        before_last: Float[Array, "b l w"],
        valid: Bool[Array, "b l"],
        mask: Bool[Array, "#b 1 #l l"] | None = None,
    ) -> Float[Array, "b d"]:
        c = self.tower
        out_std = (2 * c.layers * c.width) ** -0.5
        block = Block(c.width, c.heads, c.mlp_width, c.activation, self.eps, out_std, self.dtype, name="block")
        tokens = block(before_last, mask)
        if self.max_length:
            log_var = GPOHead(self.dim, self.max_length, self.dtype, name="head")(tokens, valid)
        else:
            weights = valid / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
            pooled = jnp.einsum("blw,bl->bw", tokens, weights.astype(tokens.dtype))
            init = nn.initializers.normal(0.1 * c.width**-0.5)
            log_var = nn.Dense(self.dim, dtype=self.dtype, kernel_init=init, name="head")(pooled).astype(jnp.float32)
        return log_var + self.param("bias", nn.initializers.constant(self.initial), (self.dim,))
