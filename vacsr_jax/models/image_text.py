"""The whole model: CLIP's two towers and a pair model on top, built from a config."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from vacsr_jax.models.clip import CLIP, Images, Tokens, attention_mask, valid_mask
from vacsr_jax.models.clip_config import CLIPConfig, check_numbers, field_types
from vacsr_jax.models.conjunction import ConjunctionModel
from vacsr_jax.models.gaussian_distance import GaussianDistance
from vacsr_jax.models.heads import POOLING, GPOHead, SpreadBranch
from vacsr_jax.models.pair_models import CosineModel, DeterministicAdapter
from vacsr_jax.models.propensity import PropensityModel
from vacsr_jax.models.variational_adapter import VariationalAdapter

METHODS = (
    "infonce",
    "cross_entropy",
    "sigmoid",
    "triplet",
    "pcmepp",
    "conjunction",
    "deterministic",
    "vacsr",
    "propensity",
)
MATCHES = ("cosine", "conjunction", "deterministic", "vacsr")  # what a propensity model calls a match by


class ImageTextModel(nn.Module):
    """Images and texts to embeddings that are ready to be paired, and the pair model that scores them.

    Attributes:
      clip: shape of the two towers.
      pair: the pair model; one that works on Gaussians gets a variance of each item from a branch of its tower.
      dtype: of compute.
      pooling: "clip": the towers' own pooling and projections; "gpo": every token is projected, then GPO. The image
        tower then ends without its final norm (Chun 2024).
      dim: of the embeddings.
      initial_log_var: of the Gaussians at the start.
    """

    clip: CLIPConfig
    pair: nn.Module
    dtype: Any = jnp.float32
    pooling: str = "clip"
    dim: int = 0
    initial_log_var: float = 0.0

    @property
    def gives_probability(self) -> bool:
        """Whether sigmoid(logit) is a probability; with InfoNCE (CLIP's loss) a logit only ranks."""
        return self.pair.initial_logit is not None

    @property
    def latent(self) -> VariationalAdapter | None:
        """The part of the pair model that draws a pair's similarity, if there is one."""
        pair = self.pair.match if isinstance(self.pair, PropensityModel) else self.pair
        return pair if isinstance(pair, VariationalAdapter) else None

    def cosine_dim(self, width: int) -> int:
        """How many of a prepared embedding's numbers are a direction; variances and propensities follow them."""
        if isinstance(self.pair, GaussianDistance):
            return width // 2
        return width - 1 if isinstance(self.pair, PropensityModel) else width

    def setup(self):
        gpo, vision, text = self.pooling == "gpo", self.clip.vision, self.clip.text
        self.towers = CLIP(self.clip, self.dtype, vision_norm=not gpo)
        if gpo:
            self.image_head = GPOHead(self.dim, vision.tokens, self.dtype)
            self.text_head = GPOHead(self.dim, text.context_length, self.dtype)
        if isinstance(self.pair, GaussianDistance):
            eps, start = self.clip.layer_norm_eps, self.initial_log_var
            lengths = (vision.tokens, text.context_length) if gpo else (0, 0)
            self.image_spread = SpreadBranch(vision, eps, self.dim, lengths[0], start, self.dtype)
            self.text_spread = SpreadBranch(text, eps, self.dim, lengths[1], start, self.dtype)

    def encode_image(self, images: Images, keep: Bool[Array, "b l"] | None = None) -> Float[Array, "b e"]:
        """Prepared embeddings of uint8 (or normalized float) images [b s s 3]: what the pair model works on.

        `keep` says which of an image's tokens GPO sees (size augmentation); None: all.
        """
        out = self.towers.vision(images)
        valid = jnp.ones(out.tokens.shape[:2], bool) if keep is None else keep
        if self.pooling == "gpo":
            mean = self.image_head(out.tokens, valid)
        else:
            mean = self.towers.vision_projection(out.pooled).astype(jnp.float32)
        if isinstance(self.pair, PropensityModel):
            return self.pair.prepare_image(mean)
        if not isinstance(self.pair, GaussianDistance):
            return self.pair.prepare(mean)
        return self.pair.prepare(mean, self.image_spread(out.before_last, valid))

    def encode_text(self, tokens: Tokens) -> Float[Array, "b e"]:
        """Prepared embeddings of token ids [b l]."""
        out, valid = self.towers.text(tokens), valid_mask(tokens, self.clip.text)
        if self.pooling == "gpo":
            mean = self.text_head(out.tokens, valid)
        else:
            mean = self.towers.text_projection(out.pooled).astype(jnp.float32)
        if isinstance(self.pair, PropensityModel):
            return self.pair.prepare_text(mean)
        if not isinstance(self.pair, GaussianDistance):
            return self.pair.prepare(mean)
        mask = attention_mask(tokens, self.clip.text)
        return self.pair.prepare(mean, self.text_spread(out.before_last, valid, mask))

    def __call__(
        self, images: Images, tokens: Tokens, keep: Bool[Array, "b p"] | None = None
    ) -> tuple[Float[Array, "b e"], Float[Array, "c e"]]:
        """Both prepared embeddings."""
        return self.encode_image(images, keep), self.encode_text(tokens)

    def warm_up(self, images: Images, tokens: Tokens) -> None:
        """Touches every parameter; what `init` runs."""
        self(images, tokens)
        self.fold()

    def fold(self):
        """What scoring needs of the pair model (see `pair_models.score_tile`)."""
        return self.pair.fold()


PAIR_MODELS = {
    model.__name__: model
    for model in (
        CosineModel,
        ConjunctionModel,
        DeterministicAdapter,
        VariationalAdapter,
        GaussianDistance,
        PropensityModel,
    )
}
OPTIONS = ("pooling", "dim", "initial_log_var")
FORMAT = 2  # of a description; raise it when old checkpoints stop loading


def describe(model: ImageTextModel) -> dict[str, Any]:
    """Plain JSON values that say what a model is; kept in checkpoints and exports. `from_description` inverts it."""
    return {
        "format": FORMAT,
        "clip": model.clip.to_dict(),
        "pair": _describe_pair(model.pair),
        "dtype": jnp.dtype(model.dtype).name,
        **{name: getattr(model, name) for name in OPTIONS},
    }


def _describe_pair(pair: nn.Module) -> dict[str, Any]:
    values = {name: getattr(pair, name) for name in _fields(type(pair))}
    described = {name: _describe_pair(x) if isinstance(x, nn.Module) else x for name, x in values.items()}
    return {"type": type(pair).__name__} | described


def from_description(description: dict[str, Any]) -> ImageTextModel:
    """The model that `describe` described.

    Raises:
      ValueError: naming what is unknown, missing, or of another format.
    """
    if not isinstance(description, dict) or "format" not in description:
        raise ValueError(f"model description: got fields {sorted(description or ())}, expected a format among them")
    if description["format"] != FORMAT:
        raise ValueError(
            f"model description: got format {description['format']}, this version reads {FORMAT}; "
            "load it with the version that wrote it, or train again"
        )
    wanted = ("format", "clip", "pair", "dtype", *OPTIONS)
    if set(description) != set(wanted):
        raise ValueError(f"model description: got fields {sorted(description)}, expected {sorted(wanted)}")
    options = {name: description[name] for name in OPTIONS}
    check_numbers(options, field_types(ImageTextModel), "model description")
    check_choices(description["dtype"], options["pooling"])
    try:
        clip, pair = CLIPConfig.from_dict(description["clip"]), _pair_from(description["pair"])
    except RecursionError:
        raise ValueError("model description: pair models stand in each other without end; it was damaged") from None
    return ImageTextModel(clip, pair, jnp.dtype(description["dtype"]), **options)


def _pair_from(description: dict[str, Any] | None) -> nn.Module:
    values = dict(description) if isinstance(description, dict) else {}
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in PAIR_MODELS:
        raise ValueError(f"model description: got pair model {kind!r}, expected one of {', '.join(PAIR_MODELS)}")
    differing = set(values) ^ set(_fields(PAIR_MODELS[kind]))
    if differing:
        raise ValueError(
            f"model description: {kind} has the fields {', '.join(_fields(PAIR_MODELS[kind]))}; "
            f"{', '.join(sorted(differing))} is missing or unknown"
        )
    check_numbers(values, field_types(PAIR_MODELS[kind]), f"model description: {kind}")
    return PAIR_MODELS[kind](**{name: _pair_from(x) if isinstance(x, dict) else x for name, x in values.items()})


def check_choices(dtype: str, pooling: str) -> None:
    """Raises ValueError for a type of compute, or a pooling, that there is not."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype: got {dtype!r}, expected float32 or bfloat16")
    if pooling not in POOLING:
        raise ValueError(f"model.pooling: got {pooling!r}, expected one of {', '.join(POOLING)}")


def _fields(module: type[nn.Module]) -> list[str]:
    return [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]


def build_model(config: ConfigDict, clip: CLIPConfig, texts: int = 0) -> ImageTextModel:
    """The model of a run's config on towers of the given shape.

    The pair model's first logit is the base rate of positives, log(1 / (texts - 1)), unless
    `adapter.base_rate_bias` is off; `texts` are what an image is compared with, 0: batch_size of them.

    Raises:
      ValueError: for an unknown method, dtype or pooling, or a dimension that the towers' own projections do not have.
    """
    model = config.model
    check_choices(model.dtype, model.pooling)
    if model.pooling == "clip" and model.embedding_dim not in (0, clip.embedding_dim):
        raise ValueError(
            f"model.embedding_dim: got {model.embedding_dim}, but with model.pooling clip the towers' own projections "
            f"give {clip.embedding_dim}; leave it 0, or set model.pooling=gpo"
        )
    dim = model.embedding_dim or clip.embedding_dim
    log_var = math.log(config.pcmepp.variance / dim) if config.method == "pcmepp" else 0.0
    return ImageTextModel(clip, pair_model(config, dim, texts), jnp.dtype(model.dtype), model.pooling, dim, log_var)


def pair_model(config: ConfigDict, dim: int, texts: int = 0) -> nn.Module:
    """The pair model that `config.method` names, for embeddings of `dim` numbers; `texts` as in `build_model`."""
    if config.method == "propensity":
        return propensity_model(config, dim, texts)
    adapter, cosine = config.adapter, config.cosine
    initial_logit = -math.log(max((texts or config.train.batch_size) - 1, 1)) if adapter.base_rate_bias else 0.0
    shape = {"dim": dim, "width": adapter.width or dim, "embeddings": adapter.embeddings}
    if config.method in ("infonce", "cross_entropy", "sigmoid"):
        return CosineModel(
            initial_logit if config.method == "sigmoid" else None, cosine.scale or CosineModel.scale, cosine.learn_scale
        )
    if config.method == "conjunction":
        scale = cosine.scale or ConjunctionModel.scale
        return ConjunctionModel(dim, config.conjunction.claims, initial_logit, scale, cosine.learn_scale)
    if config.method == "triplet":  # its margin is one of cosines
        return CosineModel(None, scale=1.0, learn_scale=False)
    if config.method == "pcmepp":
        return GaussianDistance()
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


def propensity_model(config: ConfigDict, dim: int, texts: int) -> PropensityModel:
    """The propensity model around the pair model that `propensity.match` names, in place of a method."""
    match = config.propensity.match
    if match not in MATCHES:
        raise ValueError(f"propensity.match: got {match!r}, expected one of {', '.join(MATCHES)}")
    inner = config.copy_and_resolve_references()
    inner.method = "sigmoid" if match == "cosine" else match
    return PropensityModel(
        pair_model(inner, dim, texts),
        dim,
        plateau=config.propensity.plateau,
        text_propensity=config.propensity.text,
        image_propensity=config.propensity.image,
        noise_floor=config.propensity.noise_floor,
    )


def adapt_towers(clip: CLIPConfig, *, image_size: int, context_length: int, **text) -> CLIPConfig:
    """`clip` for other data: sizes (0 keeps the preset's) and the vocabulary and ids of a tokenizer."""
    vision = dataclasses.replace(clip.vision, image_size=image_size or clip.vision.image_size)
    length = context_length or clip.text.context_length
    return dataclasses.replace(clip, vision=vision, text=dataclasses.replace(clip.text, context_length=length, **text))
