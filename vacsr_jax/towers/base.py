"""The interface of a two-tower model: its config, the output of its towers, and the checks of its inputs.

A tower is one file beside this one and one line in `towers.TOWERS`. Its config is a frozen dataclass with the fields of
`TowersConfig`. The module that the config builds has the methods of `Towers`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

# A file with larger numbers is damaged: computing such a model's shapes would take minutes, its weights all the memory.
LARGEST, MOST_LAYERS = 2**20, 2**8

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")

# CLIP's pixel statistics (Radford et al. 2021), for pixels in [0, 1]; most image towers use them.
CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# ImageNet's pixel statistics, which PCME++ uses with CLIP's towers.
IMAGENET_PIXEL_MEAN = (0.485, 0.456, 0.406)
IMAGENET_PIXEL_STD = (0.229, 0.224, 0.225)

# Fields that are younger than the format of descriptions.
YOUNGER: tuple[str, ...] = ("patch_bias", "pre_norm", "norm_last", "interpolation", "resize_size")
YOUNGER += ("logit_bias", "text_bias", "image_projection")

AnyArray = Array | np.ndarray
Config = TypeVar("Config", bound="TowersConfig")
Images = UInt8[AnyArray, "b s s 3"] | Float[AnyArray, "b s s 3"]
Tokens = Int[AnyArray, "b l"]


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square patches.

    `pool` is "cls" (a class token is prepended), "mean" (no class token), "patches" (a class token that is left out of
    the mean) or "map" (no class token; a learned query attends to the patches, as in SigLIP). `patch_normalization`
    subtracts from every patch its mean per channel, divides it by its own standard deviation, and appends the means as
    inputs. `patch_bias`: whether the patch embedding has a bias. `pre_norm`: whether there is a norm before the first
    block. `norm_last`: the final norm comes after pooling. `pixel_mean` and `pixel_std` apply to pixels in [0, 1].
    `position_std` is the initial scale only. `resize`, `interpolation` and `resize_size` say how an image becomes a
    square (`data.preprocess`).

    Raises:
      ValueError: for an unknown choice or an impossible size.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    pool: str = "cls"
    patch_normalization: bool = False
    pixel_mean: tuple[float, float, float] = CLIP_PIXEL_MEAN
    pixel_std: tuple[float, float, float] = CLIP_PIXEL_STD
    position_std: float = 0.02
    resize: str = "crop"
    patch_bias: bool = False
    pre_norm: bool = True
    norm_last: bool = False
    interpolation: str = ""
    resize_size: int = 0

    def __post_init__(self):
        _check_tower(self, pools=("cls", "mean", "patches", "map"))
        # SigLIP's so400m has patches of 14 pixels in images of 384: the last 6 rows and columns are left out.
        if self.image_size % self.patch_size and self.pool != "map":
            raise ValueError(
                f"patch_size: got {self.patch_size}, expected a divisor of image_size, which is {self.image_size}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size: got {self.patch_size}, which is larger than image_size, {self.image_size}")

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """How many tokens the tower computes: the patches, and the class token if there is one."""
        return self.patches + self.has_class_token

    @property
    def has_class_token(self) -> bool:
        """Whether a token that is no patch comes first."""
        return self.pool in ("cls", "patches")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The arguments of `data.preprocess.preprocess` for this tower."""
        names = ("image_size", "resize", "interpolation", "resize_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TextConfig:
    """A text transformer.

    `pool` is "end" (the first end token), "mean" (all tokens but pads) or "last" (the last of the row, pad or not, as
    in SigLIP: every row must have `context_length` tokens). Pads are masked if `causal` is false, except with "last",
    whose towers were trained to see them. A causal tower needs no mask, since pads come after the end token.
    `start_id` is None if texts have no start token. The two `_std` are initial scales only.

    Raises:
      ValueError: for an unknown choice, an impossible size, or a pad id that would hide a real token.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    pool: str = "end"
    causal: bool = True
    start_id: int | None = 49406
    end_id: int = 49407
    pad_id: int = 49407
    token_std: float = 0.02
    position_std: float = 0.01

    def __post_init__(self):
        _check_tower(self, pools=("end", "mean", "last"))
        for name in ("start_id", "end_id", "pad_id"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected an id below {self.vocab_size}")
        if self.pool == "mean" and self.pad_id in (self.start_id, self.end_id):
            raise ValueError(
                f"pad_id: got {self.pad_id}, which is also the start or end id; mean pooling needs a pad id of its own"
            )


class TowerOutput(NamedTuple):
    """The output of a tower for a batch.

    Attributes:
      tokens: [b, l, w] all tokens, after the tower's final norm if it has one.
      pooled: [b, w] the class, end or last token, the mean over valid tokens, or what attention pooling gives.
      before_last: [b, l, w] the input of the last block.
      valid: bool [b, l] which tokens are the item's own.
      mask: which tokens each token sees, in the form that the blocks take; None: all.
    """

    tokens: Float[Array, "b l w"]
    pooled: Float[Array, "b w"]
    before_last: Float[Array, "b l w"]
    valid: Bool[Array, "b l"]
    mask: Bool[Array, "#b 1 #l l"] | None = None


class Encoded(NamedTuple):
    """What the towers compute for a batch of items: the input of a pair model's `prepare_image` and `prepare_text`.

    Attributes:
      embedding: [b, d] in the space that both towers share, float32, not normalized.
      tokens: [b, l, w] all tokens after the tower's final norm, in the compute dtype; w differs between the towers.
      valid: bool [b, l] which tokens are the item's own.
      log_var: [b, d] log sigma^2 of the item, if the pair model wants it (`PairModel.wants_log_var`), else None.
      class_tokens: how many of the first tokens are no patch of an image but stand for all of it; 0 for texts.
    """

    embedding: Float[Array, "b d"]
    tokens: Float[Array, "b l w"]
    valid: Bool[Array, "b l"]
    log_var: Float[Array, "b d"] | None = None
    class_tokens: int = 0


class Towers(Protocol):
    """The Linen module of a two-tower model.

    The projections are separate methods, since a model that pools tokens itself has no parameters for them. Among the
    parameters, `logit_scale` [] is the logarithm of the scale that pretrained weights were trained with. There may be a
    `logit_bias` [] as well, if they were trained with the sigmoid loss.
    """

    def vision(self, images: Images) -> TowerOutput:
        """Runs the image tower on uint8 (or normalized float) images [b s s 3]."""
        ...

    def text(self, tokens: Tokens) -> TowerOutput:
        """Runs the text tower on token ids [b l]."""
        ...

    def project_image(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """Projects pooled images to the space that both towers share, float32."""
        ...

    def project_text(self, pooled: Float[Array, "b w"]) -> Float[Array, "b d"]:
        """Projects pooled texts to the space that both towers share, float32."""
        ...


@dataclass(frozen=True)
class TowersConfig:
    """The config of a two-tower model, frozen so that it is static under `jit`. Each family of towers has a subclass.

    Attributes:
      vision, text: the shapes of the towers.
      embedding_dim: d, the dimension of the space that both share.
      layer_norm_eps: the epsilon of the layer norms in both towers.
    """

    vision: VisionConfig
    text: TextConfig
    embedding_dim: int
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        check_numbers(
            {"embedding_dim": self.embedding_dim, "layer_norm_eps": self.layer_norm_eps},
            field_types(type(self)),
            type(self).__name__,
        )

    def build(self, dtype: Any, *, vision_norm: bool = True) -> nn.Module:
        """Builds the module with the methods of `Towers`. `vision_norm`: whether the image tower has a final norm."""
        raise NotImplementedError(f"{type(self).__name__} must have build(dtype, vision_norm)")

    @property
    def takes_vectors(self) -> bool:
        """Whether an image and a text are embeddings of other models, in place of pixels and token ids."""
        return False

    def example_inputs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n images and n texts of the shapes and types that the towers take, for making parameters."""
        size = self.vision.image_size
        tokens = np.full((n, self.text.context_length), self.text.end_id, np.int32)
        return np.zeros((n, size, size, 3), np.uint8), tokens

    def to_dict(self) -> dict[str, Any]:
        """Returns a nested plain dict that survives JSON; `from_dict` is the inverse."""
        values = dataclasses.asdict(self)
        # Fields that are younger than format 2 are left out at their default, so that older fingerprints stay true.
        for part, kind in ((values, type(self)), (values["vision"], VisionConfig)):
            for field in dataclasses.fields(kind):
                if field.name in YOUNGER and part[field.name] == field.default:
                    del part[field.name]
        for name in ("pixel_mean", "pixel_std"):
            values["vision"][name] = list(values["vision"][name])
        return values

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Builds the config from the result of `to_dict`.

        Raises:
          ValueError: for an unknown or a missing key, or a value of a wrong type.
        """
        name = f"{cls.__name__.removesuffix('Config')} config"
        check_keys(cls, values, name)
        if not all(isinstance(values[side], Mapping) for side in ("vision", "text")):
            raise ValueError(f"{name}: vision and text: expected an object for each")
        vision, text = dict(values["vision"]), dict(values["text"])
        check_keys(VisionConfig, vision, f"{name}, vision")
        check_keys(TextConfig, text, f"{name}, text")
        for key in {"pixel_mean", "pixel_std"} & set(vision):
            vision[key] = tuple(vision[key]) if isinstance(vision[key], list) else vision[key]
        top = {key: value for key, value in values.items() if key not in ("vision", "text")}
        for kind, given in ((cls, top), (VisionConfig, vision), (TextConfig, text)):
            check_numbers(given, field_types(kind), kind.__name__)
        return cls(**top, vision=VisionConfig(**vision), text=TextConfig(**text))


def adapt_towers(config: TowersConfig, *, image_size: int, context_length: int, **text: Any) -> TowersConfig:
    """Adapts `config` to other data: to sizes (0 keeps the config's), and to a tokenizer's vocabulary and ids."""
    vision = dataclasses.replace(config.vision, image_size=image_size or config.vision.image_size)
    fields: dict[str, Any] = {"context_length": context_length or config.text.context_length, **text}
    return dataclasses.replace(config, vision=vision, text=dataclasses.replace(config.text, **fields))


def normalize_pixels(images: Images, config: VisionConfig) -> Float[Array, "b s s 3"]:
    """(x / 255 - pixel_mean) / pixel_std for uint8 images; float images count as normalized already.

    Raises:
      ValueError: if the images are not [b, image_size, image_size, 3].
    """
    size = config.image_size
    if images.shape[1:] != (size, size, 3):
        raise ValueError(
            f"images: got shape {list(images.shape)}, expected [b, {size}, {size}, 3]; "
            "resize them with vacsr_jax.data.preprocess"
        )
    if images.dtype != jnp.uint8:
        return jnp.asarray(images)
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (config.pixel_mean, config.pixel_std))
    return (jnp.asarray(images).astype(jnp.float32) / 255 - mean) / std


def valid_mask(tokens: Tokens, config: TextConfig) -> Bool[Array, "b l"]:
    """True for a text's own tokens: up to the first end token (pool "end", "last"), or all that are not pads ("mean").

    Some of CLIP's tokenizers pad with the end token, some with "!", some with others. All end a text at the same token.
    """
    tokens = jnp.asarray(tokens)
    if config.pool in ("end", "last"):
        ends = (tokens == config.end_id).astype(jnp.int32)
        return jnp.cumsum(ends, axis=1) - ends == 0
    return tokens != config.pad_id


def longest_text(tokens: np.ndarray, config: TextConfig) -> int:
    """How many tokens the tower must see: up to the end of the longest text (`valid_mask`), or all with pool "last"."""
    if config.pool == "last":
        return tokens.shape[1]
    if config.pool == "end":
        return int((tokens == config.end_id).argmax(axis=1).max()) + 1
    return int(np.flatnonzero((tokens != config.pad_id).any(axis=0)).max(initial=0)) + 1


def attention_mask(tokens: Tokens, config: TextConfig) -> Bool[Array, "#b 1 #l l"] | None:
    """Which tokens each token sees: in a causal tower the earlier ones, else all tokens of the text (`valid_mask`).

    None: every token sees all, pads included (pool "last").
    """
    if config.causal:
        length = tokens.shape[1]
        return jnp.tril(jnp.ones((1, 1, length, length), bool))
    return None if config.pool == "last" else valid_mask(tokens, config)[:, None, None, :]


def check_tokens(tokens: np.ndarray, config: TextConfig) -> None:
    """Checks on the host what a compiled model cannot raise an error about.

    Raises:
      ValueError: if `tokens` is not an integer [n, l <= context_length] array (pool "last": l = context_length), an id
        is out of range, a row has no end token (pool "end" or "last"), or a row is all pads (pool "mean").
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens: got {tokens.dtype} {list(tokens.shape)}, expected integers [n, length]")
    if tokens.shape[1] > config.context_length:
        raise ValueError(
            f"tokens: got length {tokens.shape[1]}, expected {config.context_length} at most; truncate them"
        )
    if config.pool == "last" and tokens.shape[1] != config.context_length:
        raise ValueError(
            f"tokens: got length {tokens.shape[1]}, expected {config.context_length}; this tower pools the last token "
            "of a full row, so pad them"
        )
    if tokens.size and (tokens.min() < 0 or tokens.max() >= config.vocab_size):
        raise ValueError(
            f"tokens: got ids in [{tokens.min()}, {tokens.max()}], expected [0, {config.vocab_size}); "
            "the tokenizer does not belong to this tower"
        )
    if config.pool in ("end", "last"):
        bad, what = ~(tokens == config.end_id).any(axis=1), f"no end token ({config.end_id})"
    else:
        bad, what = (tokens == config.pad_id).all(axis=1), "nothing but pads"
    if bad.any():
        raise ValueError(f"tokens: row {int(bad.argmax())} has {what}; use the tokenizer that belongs to the tower")


def check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises ValueError if `values` is not an object, has a key that `cls` lacks, or lacks a key that `cls` needs."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: got {_short(values)}, expected an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields) or sorted(fields)
            raise ValueError(f"{where}: unknown key {key!r}; did you mean {' or '.join(map(repr, near))}?")
    missing = [k for k, f in fields.items() if f.default is dataclasses.MISSING and k not in values]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")


def check_numbers(values: Mapping[str, Any], types: Mapping[str, str], where: str) -> None:
    """Checks values from a file, by name, against the types of a dataclass; other types are ignored.

    Raises:
      ValueError: unless sizes are whole numbers from 1 to 2^20 (layers: to 2^8; ids, and what may be left out: from 0),
        scales are finite numbers, and pixel statistics are three finite numbers.
    """
    for name, value in values.items():
        kind = types[name].removesuffix(" | None")
        if value is None and kind != types[name]:
            continue
        least = 0 if name.endswith("_id") or name in ("dim", "decoder_width", "resize_size") else 1
        most = MOST_LAYERS if name == "layers" else LARGEST
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind == "int" and not (number and isinstance(value, int) and least <= value <= most):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a whole number from {least} to {most}")
        if kind == "float" and not (number and abs(value) < float("inf")):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a finite number")
        if kind == "bool" and not isinstance(value, bool):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected true or false")
        if kind == "str" and not isinstance(value, str):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a string")
        if kind.startswith("tuple") and not (
            isinstance(value, tuple) and len(value) == 3 and all(map(_is_finite, value))
        ):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected three finite numbers, one per channel")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _short(value: object) -> str:
    return f"{value!r:.60}"


def field_types(cls: type) -> dict[str, str]:
    """Name -> annotation of a dataclass's fields; a module's own fields, without Flax's."""
    return {f.name: str(f.type) for f in dataclasses.fields(cls) if f.name not in ("parent", "name")}


def _check_tower(tower: VisionConfig | TextConfig, pools: tuple[str, ...]) -> None:
    name = type(tower).__name__
    check_numbers(vars(tower), field_types(type(tower)), name)
    if tower.activation not in ACTIVATIONS:
        raise ValueError(f"{name}.activation: got {tower.activation!r}, expected one of {ACTIVATIONS}")
    if tower.pool not in pools:
        raise ValueError(f"{name}.pool: got {tower.pool!r}, expected one of {pools}")
    if tower.width % tower.heads:
        raise ValueError(f"{name}.heads: got {tower.heads}, expected a divisor of width, which is {tower.width}")
