"""Towers that are not there: the inputs are embeddings of other models, each with an optional learned projection."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vacsr_jax.ops.vectors import unit
from vacsr_jax.towers.base import (
    AnyArray,
    TowerOutput,
    TowersConfig,
    check_keys,
    check_numbers,
    field_types,
)

PROJECTIONS = ("none", "linear", "residual")


@dataclass(frozen=True)
class EmbeddingSide:
    """The embeddings of images, or those of texts.

    Attributes:
      dim: how many numbers an embedding has.
      projection: "none"; "linear": W x; "residual": x + W2 gelu(W1 x + b), where W2 is 0 at the start.
      model_id: the model that the embeddings are of; "" if that is not known.

    The other attributes are those of a tower with one token, for models that read tokens (PCME++).

    Raises:
      ValueError: for an unknown projection or an impossible size.
    """

    dim: int
    projection: str = "none"
    model_id: str = ""

    layers = heads = patches = tokens = context_length = 1
    activation = "gelu"

    def __post_init__(self):
        check_numbers(vars(self), field_types(EmbeddingSide), "EmbeddingSide")
        if self.dim < 1:
            raise ValueError(f"EmbeddingSide.dim: got {self.dim}, expected at least 1")
        if self.projection not in PROJECTIONS:
            raise ValueError(f"projection: got {self.projection!r}, expected one of {', '.join(PROJECTIONS)}")

    @property
    def width(self) -> int:
        return self.dim

    @property
    def mlp_width(self) -> int:
        return self.dim


@dataclass(frozen=True)
class EmbeddingsConfig(TowersConfig):
    """Both sides, and the dimension of the space in which they are compared.

    Raises:
      ValueError: if a side has another dimension than that space, and no linear projection.
    """

    vision: EmbeddingSide  # type: ignore[assignment]  # in place of a tower's config
    text: EmbeddingSide  # type: ignore[assignment]

    takes_vectors = True

    def __post_init__(self):
        super().__post_init__()
        for name, side in (("image", self.vision), ("text", self.text)):
            if side.projection != "linear" and side.dim != self.embedding_dim:
                raise ValueError(
                    f"model.{name}_projection: got {side.projection!r} for {name} embeddings of {side.dim} numbers, "
                    f"which are compared in {self.embedding_dim}; set model.{name}_projection=linear"
                )

    def build(self, dtype: Any, *, vision_norm: bool = True) -> EmbeddingTowers:
        return EmbeddingTowers(self, dtype)

    def example_inputs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((n, self.vision.dim), np.float32), np.ones((n, self.text.dim), np.float32)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmbeddingsConfig:
        check_keys(cls, values, "Embeddings config")
        sides = {}
        for name in ("vision", "text"):
            check_keys(EmbeddingSide, values[name], f"Embeddings config, {name}")
            sides[name] = EmbeddingSide(**values[name])
        return cls(**{**values, **sides})


class EmbeddingTowers(nn.Module):
    """The methods of `towers.base.Towers` on embeddings.

    An embedding x counts by its direction alone: sqrt(d) x / |x| goes into the projection, so that its entries are
    O(1) whether a file holds unit vectors or not.
    """

    config: EmbeddingsConfig
    dtype: Any = jnp.float32

    def setup(self):
        c = self.config
        self.vision_projection = self._projection(c.vision)
        self.text_projection = self._projection(c.text)
        self.logit_scale = self.param("logit_scale", lambda key: jnp.asarray(np.log(1 / 0.07), jnp.float32))

    def _projection(self, side: EmbeddingSide) -> nn.Module | None:
        if side.projection == "linear":
            init = identity if side.dim == self.config.embedding_dim else nn.initializers.lecun_normal()
            return nn.Dense(self.config.embedding_dim, use_bias=False, dtype=self.dtype, kernel_init=init)
        return ResidualProjection(self.dtype) if side.projection == "residual" else None

    def vision(self, images: Float[AnyArray, "b d"]) -> TowerOutput:
        """Image embeddings as a tower's output with one token."""
        return as_output(images, self.config.vision, "images", self.dtype)

    def text(self, tokens: Float[AnyArray, "b d"]) -> TowerOutput:
        """Text embeddings as a tower's output with one token."""
        return as_output(tokens, self.config.text, "texts", self.dtype)

    def project_image(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """The image embeddings in the space where both sides are compared, float32."""
        return (pooled if self.vision_projection is None else self.vision_projection(pooled)).astype(jnp.float32)

    def project_text(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """The text embeddings in the space where both sides are compared, float32."""
        return (pooled if self.text_projection is None else self.text_projection(pooled)).astype(jnp.float32)


class ResidualProjection(nn.Module):
    """x + W2 gelu(W1 x + b): the identity at the start, as W2 is 0. The hidden layer has a quarter of the units of x.

    CLIP-Adapter (Gao et al. 2021) has the same bottleneck.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        d = x.shape[-1]
        hidden = nn.gelu(nn.Dense(max(d // 4, 1), dtype=self.dtype, name="hidden")(x))
        out = nn.Dense(d, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return x + out(hidden)


def identity(key, shape, dtype=jnp.float32):
    """The kernel of the identity: a linear projection between equal dimensions starts there."""
    return jnp.eye(shape[0], dtype=dtype)


def as_output(x: Float[AnyArray, "b d"], side: EmbeddingSide, name: str, dtype: Any) -> TowerOutput:
    if x.ndim != 2 or x.shape[-1] != side.dim:
        raise ValueError(f"{name}: got {list(x.shape)}, expected embeddings [b, {side.dim}]")
    scaled = (unit(jnp.asarray(x)) * side.dim**0.5).astype(dtype)
    token = scaled[:, None]
    return TowerOutput(token, scaled, token, jnp.ones(token.shape[:2], bool))


def load_nothing(folder: Path) -> tuple[TowersConfig, dict[str, Any]]:
    """Embeddings have no pretrained weights of their own.

    Raises:
      ValueError: always.
    """
    raise ValueError(f"{folder}: a model on embeddings has no towers to start from; give a Hugging Face model")
