"""The pre-norm residual transformer of the towers, and attention pooling: float32 parameters, compute in `dtype`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """CLIP's approximation of GELU: x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, x Phi(x) (erf, as "gelu" means in Hugging Face configs)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The tanh form of GELU ("gelu_pytorch_tanh" in Hugging Face configs), which SigLIP was trained with."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATION = {"quick_gelu": quick_gelu, "gelu": gelu, "gelu_tanh": gelu_tanh}


def layer_norm(x: Float[Array, "b l w"], eps: float, dtype: Any, name: str) -> Float[Array, "b l w"]:
    """Layer norm computed in float32 and returned in `dtype`; call it in a compact module."""
    norm = nn.LayerNorm(epsilon=eps, dtype=jnp.float32, use_fast_variance=False, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


class Attention(nn.Module):
    """Multi-head attention, softmax(q k^T / sqrt(width / heads)) v, with the softmax in float32."""

    width: int
    heads: int
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q w"],
        mask: Bool[Array, "#b 1 #q k"] | None = None,
        keys: Float[Array, "b k w"] | None = None,
    ) -> Float[Array, "b q w"]:
        """The queries are made from `x`; keys and values from `keys`, or from `x` as well."""
        head_width = self.width // self.heads
        in_init = nn.initializers.normal(self.width**-0.5)

        def split(name, x):
            y = nn.Dense(self.width, dtype=self.dtype, kernel_init=in_init, name=name)(x)
            return y.reshape(*x.shape[:2], self.heads, head_width)

        keys = x if keys is None else keys
        query, key, value = split("query", x) * head_width**-0.5, split("key", keys), split("value", keys)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        out_init = nn.initializers.normal(self.out_std)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=out_init, name="out")(y)


class Block(nn.Module):
    """One residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    eps: float
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l w"], mask: Bool[Array, "#b 1 #l l"] | None = None) -> Float[Array, "b l w"]:
        y = layer_norm(x, self.eps, self.dtype, "norm_1")
        x = x + Attention(self.width, self.heads, self.out_std, self.dtype, name="attention")(y, mask)
        y = layer_norm(x, self.eps, self.dtype, "norm_2")
        in_init = nn.initializers.normal((2 * self.width) ** -0.5)
        y = nn.Dense(self.mlp_width, dtype=self.dtype, kernel_init=in_init, name="mlp_in")(y)
        y = ACTIVATION[self.activation](y)
        out_init = nn.initializers.normal(self.out_std)
        return x + nn.Dense(self.width, dtype=self.dtype, kernel_init=out_init, name="mlp_out")(y)


class AttentionPooling(nn.Module):
    """Pools tokens by a learned query: y = attention(probe, x), then y + mlp(norm(y)); SigLIP (Zhai et al. 2023)."""

    width: int
    heads: int
    mlp_width: int
    activation: str
    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l w"]) -> Float[Array, "b w"]:
        std = self.width**-0.5
        probe = self.param("probe", nn.initializers.normal(std), (self.width,))
        query = jnp.broadcast_to(probe.astype(self.dtype), (len(x), 1, self.width))
        y = Attention(self.width, self.heads, std, self.dtype, name="attention")(query, None, x)
        return y[:, 0] + self._mlp(layer_norm(y, self.eps, self.dtype, "norm"))[:, 0]

    def _mlp(self, y: Float[Array, "b l w"]) -> Float[Array, "b l w"]:
        init = nn.initializers.normal((2 * self.width) ** -0.5)
        y = nn.Dense(self.mlp_width, dtype=self.dtype, kernel_init=init, name="mlp_in")(y)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="mlp_out")(ACTIVATION[self.activation](y))


class Transformer(nn.Module):
    """A stack of blocks without a final norm. Returns its output and the input of its last block.

    `mask` [b|1, 1, l|1, l] is true where a query (second to last axis) may see a key (last axis). The initial
    scales are CLIP's: the outputs that are added to the residual stream are divided by sqrt(2 layers), so that its
    variance does not grow.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l w"], mask: Bool[Array, "#b 1 #l l"] | None = None
    ) -> tuple[Float[Array, "b l w"], Float[Array, "b l w"]]:
        before_last = x
        out_std = (2 * self.layers * self.width) ** -0.5
        for i in range(self.layers):
            block = Block(
                self.width,
                self.heads,
                self.mlp_width,
                self.activation,
                self.eps,
                out_std,
                self.dtype,
                name=f"block_{i}",
            )
            before_last, x = x, block(x, mask)
        return x, before_last
