"""The whole model, two towers and a pair model on top, built from a config."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from vacsr_jax.pair import build_pair_model, describe_pair_model, find_method, pair_model_from
from vacsr_jax.pair.base import Explained, Item, PairModel, Scorer
from vacsr_jax.towers import TOWERS, describe_towers
from vacsr_jax.towers.base import Encoded, Images, Tokens, TowerOutput, TowersConfig, check_numbers, field_types
from vacsr_jax.towers.pooling import POOLING, GPOHead, LogVarBranch


class ImageTextModel(nn.Module):
    """Turns images and texts into items that are ready to be scored, and holds the pair model that scores them.

    Attributes:
      towers_config: the shape of the two towers.
      pair: the pair model.
      dtype: the type to compute in.
      pooling: "clip": the towers' own pooling and projections; "gpo": every token is projected, then GPO. With "gpo"
        the image tower ends without its final norm (Chun 2024).
      dim: the dimension of embeddings with "gpo"; 0: the towers' own.
      initial_log_var: log sigma^2 at the start, if the pair model wants it.
    """

    towers_config: TowersConfig
    pair: PairModel
    dtype: Any = jnp.float32
    pooling: str = "clip"
    dim: int = 0
    initial_log_var: float = 0.0

    @property
    def embedding_dim(self) -> int:
        """The dimension of an embedding, from which the pair model prepares an item."""
        return self.dim or self.towers_config.embedding_dim

    def setup(self):
        gpo, vision, text = self.pooling == "gpo", self.towers_config.vision, self.towers_config.text
        self.towers = self.towers_config.build(self.dtype, vision_norm=not gpo)
        if gpo:
            self.image_head = GPOHead(self.dim, vision.tokens, self.dtype)
            self.text_head = GPOHead(self.dim, text.context_length, self.dtype)
        if self.pair.wants_log_var:
            eps, start = self.towers_config.layer_norm_eps, self.initial_log_var
            lengths = (vision.tokens, text.context_length) if gpo else (0, 0)
            self.image_spread = LogVarBranch(vision, eps, self.embedding_dim, lengths[0], start, self.dtype)
            self.text_spread = LogVarBranch(text, eps, self.embedding_dim, lengths[1], start, self.dtype)

    def encode_image(self, images: Images, keep: Bool[Array, "b l"] | None = None) -> Item:
        """Turns uint8 (or normalized float) images [b s s 3] into the items that the pair model takes.

        `keep` says which tokens of an image GPO sees (size augmentation); None: all.
        """
        out = self.towers.vision(images)
        valid = out.valid if keep is None else keep
        if self.pooling == "gpo":
            embedding = self.image_head(out.tokens, valid)
        else:
            embedding = self.towers.project_image(out.pooled)
        log_var = self._log_var("image_spread", out, valid)
        class_tokens = self.towers_config.vision.tokens - self.towers_config.vision.patches
        return self.pair.prepare_image(Encoded(embedding, out.tokens, valid, log_var, class_tokens))

    def encode_text(self, tokens: Tokens) -> Item:
        """Turns token ids [b l] into the items that the pair model takes."""
        out = self.towers.text(tokens)
        if self.pooling == "gpo":
            embedding = self.text_head(out.tokens, out.valid)
        else:
            embedding = self.towers.project_text(out.pooled)
        log_var = self._log_var("text_spread", out, out.valid)
        return self.pair.prepare_text(Encoded(embedding, out.tokens, out.valid, log_var))

    def _log_var(self, branch: str, out: TowerOutput, valid: Bool[Array, "b l"]) -> Float[Array, "b d"] | None:
        return getattr(self, branch)(out.before_last, valid, out.mask) if self.pair.wants_log_var else None

    def __call__(self, images: Images, tokens: Tokens, keep: Bool[Array, "b p"] | None = None) -> tuple[Item, Item]:
        """The items of images and of texts."""
        return self.encode_image(images, keep), self.encode_text(tokens)

    def touch_all(self, images: Images, tokens: Tokens) -> None:
        """Uses every parameter, so that `init` makes all of them."""
        self(images, tokens)
        self.scorer()

    def explain(self, images: Item, texts: Item) -> Explained:
        """Which places the tokens of each text found in its image; see `PairModel.explain`."""
        return self.pair.explain(images, texts)

    def scorer(self) -> Scorer:
        """What scoring needs of the pair model."""
        return self.pair.scorer()


def init_params(model: ImageTextModel, seed: int):
    """Makes new float32 parameters in one compiled call; without compilation it takes a third longer."""
    return jax.jit(functools.partial(_init, model))(jax.random.key(seed))


def abstract_params(model: ImageTextModel):
    """Shapes and types of the parameters, on this process's first device; nothing is computed."""
    place = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), param_shapes(model))


def param_shapes(model: ImageTextModel):
    """Shapes and types of the parameters; no device is touched."""
    return jax.eval_shape(lambda seed: _init(model, jax.random.key(seed)), 0)


def _init(model: ImageTextModel, key: jax.Array):
    return model.init(key, *model.towers_config.example_inputs(2), method="touch_all")["params"]


OPTIONS = ("pooling", "dim", "initial_log_var")
FORMAT = 2  # of a description; raise it when old checkpoints no longer load


def describe(model: ImageTextModel) -> dict[str, Any]:
    """Describes a model in plain JSON values, for checkpoints and exports; `from_description` is the inverse."""
    return {
        "format": FORMAT,
        **describe_towers(model.towers_config),
        "pair": describe_pair_model(model.pair),
        "dtype": jnp.dtype(model.dtype).name,
        **{name: getattr(model, name) for name in OPTIONS},
    }


def from_description(description: dict[str, Any]) -> ImageTextModel:
    """Builds the model that `describe` described.

    Raises:
      ValueError: if something is unknown, missing, or of another format; the message names it.
    """
    if not isinstance(description, dict) or "format" not in description:
        raise ValueError(f"model description: got fields {sorted(description or ())}, expected one named format")
    if description["format"] != FORMAT:
        raise ValueError(
            f"model description: got format {description['format']}, this version reads {FORMAT}; "
            "load it with the version that wrote it, or train again"
        )
    families = [name for name in TOWERS if name in description]
    wanted = {"format", *(families[:1] or TOWERS), "pair", "dtype", *OPTIONS}
    if set(description) != wanted:
        raise ValueError(f"model description: got fields {sorted(description)}, expected {sorted(wanted)}")
    options = {name: description[name] for name in OPTIONS}
    check_numbers(options, field_types(ImageTextModel), "model description")
    check_choices(description["dtype"], options["pooling"])
    try:
        config = TOWERS[families[0]].config.from_dict(description[families[0]])
        pair = pair_model_from(description["pair"])
    except RecursionError:
        raise ValueError("model description: pair models are nested too deeply; the description is damaged") from None
    return ImageTextModel(config, pair, jnp.dtype(description["dtype"]), **options)


def check_choices(dtype: str, pooling: str) -> None:
    """Raises ValueError for an unknown dtype or pooling."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype: got {dtype!r}, expected float32 or bfloat16")
    if pooling not in POOLING:
        raise ValueError(f"model.pooling: got {pooling!r}, expected one of {', '.join(POOLING)}")


def build_model(config: ConfigDict, towers: TowersConfig, texts: int = 0) -> ImageTextModel:
    """Builds the model of a run's config on towers of the given shape; `texts` as in `pair.build_pair_model`.

    Raises:
      ValueError: for an unknown method, dtype or pooling, or if the embedding dimension differs from that of the
        towers' own projections.
    """
    model = config.model
    check_choices(model.dtype, model.pooling)
    if towers.takes_vectors and model.pooling == "gpo":
        raise ValueError("model.pooling: gpo pools tokens, and an embedding is one vector; set model.pooling=clip")
    if model.pooling == "clip" and model.embedding_dim not in (0, towers.embedding_dim):
        raise ValueError(
            f"model.embedding_dim: got {model.embedding_dim}, but with model.pooling clip the towers' own projections "
            f"give {towers.embedding_dim}; leave it 0, or set model.pooling=gpo"
        )
    dim = model.embedding_dim or towers.embedding_dim
    options = {"pooling": model.pooling, "dim": dim, **find_method(config.method).options(config, dim)}
    return ImageTextModel(towers, build_pair_model(config, dim, texts), jnp.dtype(model.dtype), **options)
