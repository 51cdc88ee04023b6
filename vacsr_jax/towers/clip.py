"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023) in Linen: two towers, and projections to a shared space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vacsr_jax.towers.base import (
    Images,
    TextConfig,
    Tokens,
    TowerOutput,
    TowersConfig,
    VisionConfig,
    attention_mask,
    normalize_pixels,
    valid_mask,
)
from vacsr_jax.towers.transformer import AttentionPooling, Transformer, layer_norm


@dataclass(frozen=True)
class CLIPConfig(TowersConfig):
    """Both towers, and how they meet. The defaults are CLIP's.

    SigLIP has the other choices: `logit_bias`, a learned bias beside the learned scale; `text_bias`, a bias in the text
    projection; and no `image_projection`, so that what attention pooling gives is the embedding.

    Raises:
      ValueError: if there is no image projection and the image tower is not as wide as the embedding.
    """

    logit_bias: bool = False
    text_bias: bool = False
    image_projection: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.image_projection and self.vision.width != self.embedding_dim:
            raise ValueError(
                f"embedding_dim: got {self.embedding_dim}, expected the image tower's width, {self.vision.width}, "
                "since there is no image projection"
            )

    def build(self, dtype: Any, *, vision_norm: bool = True) -> CLIP:
        return CLIP(self, dtype, vision_norm)


class Features(NamedTuple):
    """The output of one tower for a batch, projected.

    Attributes:
      tokens: [b, l, w] all tokens after the tower's final norm, in the compute dtype.
      pooled: [b, w] the class or end token, or the mean over valid tokens, in the compute dtype.
      embedding: [b, d] `pooled` projected to the shared space, float32, not normalized.
    """

    tokens: Float[Array, "b l w"]
    pooled: Float[Array, "b w"]
    embedding: Float[Array, "b d"]


def to_patches(pixels: Float[Array, "b s s 3"], patch_size: int) -> Float[Array, "b l p 3"]:
    """Cuts images into patches, row by row; `p` runs over the pixels of a patch, row by row."""
    b, size, _, _ = pixels.shape
    grid = size // patch_size
    pixels = pixels[:, : grid * patch_size, : grid * patch_size]  # what does not fill a patch is left out
    x = pixels.reshape(b, grid, patch_size, grid, patch_size, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, grid * grid, patch_size * patch_size, 3)


def flatten_patches(patches: Float[Array, "b l p 3"]) -> Float[Array, "b l f"]:
    """Flattens each patch to one vector, channels innermost."""
    return patches.reshape(*patches.shape[:2], -1)


def normalize_patches(patches: Float[Array, "b l p 3"]) -> Float[Array, "b l f"]:
    """Subtracts a patch's channel means, divides by its single standard deviation + .05, and appends the means.

    Raw pixels are badly conditioned for a small tower: a patch's colour hides its shape. f = 3 p + 3.
    """
    means = patches.mean(axis=2, keepdims=True)
    centred = patches - means
    # The 1e-6 keeps the gradient finite on a flat patch.
    std = jnp.sqrt(jnp.square(centred).mean(axis=(2, 3), keepdims=True) + 1e-6)
    return flatten_patches(jnp.concatenate([centred / (std + 0.05), means], axis=2))


class VisionTower(nn.Module):
    """Patches, positions, transformer, and a final norm if `final_norm`."""

    config: VisionConfig
    eps: float
    dtype: Any = jnp.float32
    final_norm: bool = True

    @nn.compact
    def __call__(self, images: Images) -> TowerOutput:
        c = self.config
        patches = to_patches(normalize_pixels(images, c), c.patch_size)
        flat = normalize_patches(patches) if c.patch_normalization else flatten_patches(patches)
        # A matmul instead of the equal convolution: inside lax.scan on a CPU, a convolution is 27 times slower.
        x = nn.Dense(c.width, use_bias=c.patch_bias, dtype=self.dtype, name="patch_embedding")(flat)
        if c.has_class_token:
            cls = self.param("class_embedding", nn.initializers.normal(c.width**-0.5), (c.width,))
            first = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, c.width))
            x = jnp.concatenate([first, x], axis=1)
        position_init = nn.initializers.normal(c.position_std)
        positions = self.param("position_embedding", position_init, (c.tokens, c.width))
        x = x + positions.astype(self.dtype)[None]
        x = layer_norm(x, self.eps, self.dtype, "pre_norm") if c.pre_norm else x
        x, before_last = Transformer(
            c.width, c.layers, c.heads, c.mlp_width, c.activation, self.eps, self.dtype, name="transformer"
        )(x)
        if self.final_norm and c.norm_last:
            # The mean over tokens is one more row of the norm, which tokens need for heads that read them.
            rows = jnp.concatenate([self._pool(x), x], axis=1)
            rows = layer_norm(rows, self.eps, self.dtype, "post_norm")
            tokens, pooled = rows[:, 1:], rows[:, 0]
        else:
            tokens = layer_norm(x, self.eps, self.dtype, "post_norm") if self.final_norm else x
            pooled = self._pool(tokens)[:, 0]
        return TowerOutput(tokens, pooled, before_last, jnp.ones(tokens.shape[:2], bool))

    def _pool(self, x: Float[Array, "b l w"]) -> Float[Array, "b 1 w"]:
        c = self.config
        if c.pool == "cls":
            return x[:, :1]
        if c.pool == "map" and self.final_norm:  # without a final norm, other heads pool, and this one has no weights
            head = (c.width, c.heads, c.mlp_width, c.activation, self.eps, self.dtype)
            return AttentionPooling(*head, name="head")(x)[:, None]
        return x[:, c.tokens - c.patches :].mean(axis=1, keepdims=True)


class TextTower(nn.Module):
    """Token and position embeddings, transformer, final norm."""

    config: TextConfig
    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens) -> TowerOutput:
        c = self.config
        length = tokens.shape[1]
        if length > c.context_length:
            raise ValueError(f"tokens: got length {length}, expected {c.context_length} at most; truncate them")
        if c.pool == "last" and length != c.context_length:
            raise ValueError(f"tokens: got length {length}, expected {c.context_length}; pad them")
        token_init, position_init = (
            nn.initializers.normal(c.token_std),
            nn.initializers.normal(c.position_std),
        )
        table = self.param("token_embedding", token_init, (c.vocab_size, c.width))
        positions = self.param("position_embedding", position_init, (c.context_length, c.width))
        x = table[jnp.asarray(tokens)] + positions[None, :length]
        mask = attention_mask(tokens, c)
        x, before_last = Transformer(
            c.width, c.layers, c.heads, c.mlp_width, c.activation, self.eps, self.dtype, name="transformer"
        )(x.astype(self.dtype), mask)
        x = layer_norm(x, self.eps, self.dtype, "final_norm")
        return TowerOutput(x, pool_text(x, tokens, c), before_last, valid_mask(tokens, c), mask)


def pool_text(x: Float[Array, "b l w"], tokens: Tokens, config: TextConfig) -> Float[Array, "b w"]:
    """The token at the first end token, the last of all, or the mean over all but pads (see `TextConfig.pool`)."""
    if config.pool == "last":
        return x[:, -1]
    if config.pool == "end":
        # argmax of a bool array is the first True; `check_tokens` has refused rows without an end token.
        end = (jnp.asarray(tokens) == config.end_id).argmax(axis=1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
    valid = valid_mask(tokens, config).astype(x.dtype)
    return jnp.einsum("blw,bl->bw", x, valid) / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)


class CLIP(nn.Module):
    """Both towers and their projections; every method is a pure function of `params` through `apply`.

    `dtype` is the compute dtype; parameters and embeddings are float32. `logit_scale` is CLIP's log inverse
    temperature, and `logit_bias` (if there is one) SigLIP's bias: pretrained weights set them, and a pair model may
    start from them. Without `vision_norm` the image tower ends at its
    last block, for heads that read all tokens; its own pooling then means nothing.
    """

    config: CLIPConfig
    dtype: Any = jnp.float32
    vision_norm: bool = True

    def setup(self):
        c = self.config
        self.vision = VisionTower(c.vision, c.layer_norm_eps, self.dtype, self.vision_norm)
        self.text = TextTower(c.text, c.layer_norm_eps, self.dtype)
        self.vision_projection = self._projection(c.vision.width) if c.image_projection else None
        self.text_projection = self._projection(c.text.width, c.text_bias)
        self.logit_bias = self.param("logit_bias", lambda key: jnp.float32(-10)) if c.logit_bias else None
        self.logit_scale = self.param("logit_scale", lambda key: jnp.asarray(np.log(1 / 0.07), jnp.float32))

    def _projection(self, width: int, bias: bool = False) -> nn.Dense:
        init = nn.initializers.normal(width**-0.5)
        return nn.Dense(self.config.embedding_dim, use_bias=bias, dtype=self.dtype, kernel_init=init)

    def project_image(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """Projects pooled images to the shared space, float32; returns them as they are without a projection."""
        if self.vision_projection is None:
            return pooled.astype(jnp.float32)
        return self.vision_projection(pooled).astype(jnp.float32)

    def project_text(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """Projects pooled texts to the shared space, float32."""
        return self.text_projection(pooled).astype(jnp.float32)

    def image_features(self, images: Images) -> Features:
        """Features of uint8 images (which are normalized here) or normalized float images, [b, s, s, 3]."""
        out = self.vision(images)
        return Features(out.tokens, out.pooled, self.project_image(out.pooled))

    def text_features(self, tokens: Tokens) -> Features:
        """Features of token ids [b, l], with l at most the context length."""
        out = self.text(tokens)
        return Features(out.tokens, out.pooled, self.project_text(out.pooled))

    def encode_image(self, images: Images, *, normalize: bool) -> Float[Array, "b d"]:
        """Image embeddings, float32, of unit length if `normalize`."""
        return maybe_unit(self.image_features(images).embedding, normalize)

    def encode_text(self, tokens: Tokens, *, normalize: bool) -> Float[Array, "b d"]:
        """Text embeddings, float32, of unit length if `normalize`."""
        return maybe_unit(self.text_features(tokens).embedding, normalize)

    def __call__(self, images: Images, tokens: Tokens) -> tuple[Float[Array, "b d"], Float[Array, "c d"]]:
        """Embeddings of images and texts, not normalized."""
        return self.image_features(images).embedding, self.text_features(tokens).embedding


def maybe_unit(x: Float[Array, "b d"], normalize: bool) -> Float[Array, "b d"]:
    """`x` divided by its Euclidean norm if `normalize`, else `x`."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if normalize else x
