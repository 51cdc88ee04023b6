"""The whole model: CLIP's two towers and a pair model on top, built from a config."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from vacsr_jax.models.clip import CLIP, Images, Tokens
from vacsr_jax.models.clip_config import CLIPConfig
from vacsr_jax.models.pair_models import CosineModel, DeterministicAdapter
from vacsr_jax.models.variational_adapter import VariationalAdapter

METHODS = ("infonce", "cross_entropy", "sigmoid", "deterministic", "vacsr")


class ImageTextModel(nn.Module):
    """Images and texts to embeddings that are ready to be paired, and the pair model that scores them."""

    clip: CLIPConfig
    pair: nn.Module
    dtype: Any = jnp.float32

    @property
    def gives_probability(self) -> bool:
        """Whether sigmoid(logit) is a probability; with InfoNCE (CLIP's loss) a logit only ranks."""
        return self.pair.initial_logit is not None

    def setup(self):
        self.towers = CLIP(self.clip, self.dtype)

    def encode_image(self, images: Images) -> Float[Array, "b d"]:
        """Prepared embeddings of uint8 (or normalized float) images [b s s 3]: what the pair model multiplies."""
        return self.pair.prepare(self.towers.encode_image(images, normalize=False))

    def encode_text(self, tokens: Tokens) -> Float[Array, "b d"]:
        """Prepared embeddings of token ids [b l]."""
        return self.pair.prepare(self.towers.encode_text(tokens, normalize=False))

    def __call__(self, images: Images, tokens: Tokens) -> tuple[Float[Array, "b d"], Float[Array, "c d"]]:
        """Both prepared embeddings."""
        return self.encode_image(images), self.encode_text(tokens)

    def warm_up(self, images: Images, tokens: Tokens) -> None:
        """Touches every parameter; what `init` runs."""
        self(images, tokens)
        self.fold()

    def fold(self):
        """What scoring needs of the pair model (see `pair_models.score_tile`)."""
        return self.pair.fold()


PAIR_MODELS = {model.__name__: model for model in (CosineModel, DeterministicAdapter, VariationalAdapter)}
FORMAT = 1  # of a description; raise it when old checkpoints stop loading


def describe(model: ImageTextModel) -> dict[str, Any]:
    """Plain JSON values that say what a model is; kept in checkpoints and exports. `from_description` inverts it."""
    pair = {"type": type(model.pair).__name__} | {name: getattr(model.pair, name) for name in _fields(type(model.pair))}
    return {
        "format": FORMAT,
        "clip": model.clip.to_dict(),
        "pair": pair,
        "dtype": jnp.dtype(model.dtype).name,
    }


def from_description(description: dict[str, Any]) -> ImageTextModel:
    """The model that `describe` described.

    Raises:
      ValueError: naming what is unknown, missing, or of another format.
    """
    wanted = ("format", "clip", "pair", "dtype")
    if not isinstance(description, dict) or set(description) != set(wanted):
        raise ValueError(f"model description: got fields {sorted(description or ())}, expected {sorted(wanted)}")
    if description["format"] != FORMAT:
        raise ValueError(
            f"model description: got format {description['format']}, this version reads {FORMAT}; "
            "load it with the version that wrote it, or train again"
        )
    values = dict(description["pair"] or {})
    kind = values.pop("type", None)
    if kind not in PAIR_MODELS:
        raise ValueError(f"model description: got pair model {kind!r}, expected one of {', '.join(PAIR_MODELS)}")
    differing = set(values) ^ set(_fields(PAIR_MODELS[kind]))
    if differing:
        raise ValueError(
            f"model description: {kind} has the fields {', '.join(_fields(PAIR_MODELS[kind]))}; "
            f"{', '.join(sorted(differing))} is missing or unknown"
        )
    try:
        clip = CLIPConfig.from_dict(description["clip"])
        return ImageTextModel(clip, PAIR_MODELS[kind](**values), jnp.dtype(description["dtype"]))
    except TypeError as error:
        raise ValueError(f"model description: a value is of a wrong type ({error}); it was damaged") from error


def _fields(module: type[nn.Module]) -> list[str]:
    return [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]


def build_model(config: ConfigDict, clip: CLIPConfig, texts: int = 0) -> ImageTextModel:
    """The model of a run's config on towers of the given shape.

    The pair model's first logit is the base rate of positives, log(1 / (texts - 1)), unless
    `adapter.base_rate_bias` is off; `texts` are what an image is compared with, 0: batch_size of them.

    Raises:
      ValueError: for an unknown method or dtype.
    """
    if config.model.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype: got {config.model.dtype!r}, expected float32 or bfloat16")
    return ImageTextModel(clip, pair_model(config, clip.embedding_dim, texts), jnp.dtype(config.model.dtype))


def pair_model(config: ConfigDict, dim: int, texts: int = 0) -> nn.Module:
    """The pair model that `config.method` names, for embeddings of `dim` numbers; `texts` as in `build_model`."""
    adapter = config.adapter
    initial_logit = -math.log(max((texts or config.train.batch_size) - 1, 1)) if adapter.base_rate_bias else 0.0
    shape = {"dim": dim, "width": adapter.width or dim, "embeddings": adapter.embeddings}
    if config.method in ("infonce", "cross_entropy", "sigmoid"):
        return CosineModel(initial_logit if config.method == "sigmoid" else None)
    if config.method == "deterministic":
        return DeterministicAdapter(**shape, initial_logit=initial_logit)
    if config.method == "vacsr":
        return VariationalAdapter(
            **shape,
            components=adapter.components,
            decoder_width=adapter.decoder_width,
            sigmoid=adapter.sigmoid,
            temperature=adapter.temperature,
            hard=adapter.hard_gumbel,
            initial_logit=initial_logit,
        )
    raise ValueError(f"method: got {config.method!r}, expected one of {', '.join(METHODS)}")


def adapt_towers(clip: CLIPConfig, *, image_size: int, context_length: int, **text) -> CLIPConfig:
    """`clip` for other data: sizes (0 keeps the preset's) and the vocabulary and ids of a tokenizer."""
    vision = dataclasses.replace(clip.vision, image_size=image_size or clip.vision.image_size)
    length = context_length or clip.text.context_length
    return dataclasses.replace(clip, vision=vision, text=dataclasses.replace(clip.text, context_length=length, **text))
