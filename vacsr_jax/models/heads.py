"""From a tower's tokens to embeddings: a projection of every token, pooled; and the branch that gives a variance."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vacsr_jax.models.clip_config import TextConfig, VisionConfig
from vacsr_jax.models.gpo import GPO
from vacsr_jax.models.transformer import Block

# How the tokens of an item become one vector: "clip": as its tower pools (class token, end token or mean), "gpo".
POOLING = ("clip", "gpo")


class GPOHead(nn.Module):
    """GPO over projected tokens: Linear(w -> d) for each token, then `GPO` (Chun 2024, PCME++, section 3)."""

    dim: int
    max_length: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b l w"], valid: Bool[Array, "b l"]) -> Float[Array, "b d"]:
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.dim, dtype=self.dtype, kernel_init=init, name="projection")(tokens)
        return GPO(self.max_length, name="gpo")(x.astype(jnp.float32), valid)


class SpreadBranch(nn.Module):
    """log sigma^2 of an item: one more block beside its tower's last one, then projected and pooled (Chun 2024).

    Attributes:
      tower: whose width and heads the block has.
      eps: of the block's layer norms.
      dim: of the embedding.
      max_length: the most tokens, for GPO; 0: the mean over valid tokens, then the projection.
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
