"""The shapes and constants of a CLIP: two frozen tower configs, their union, and the table of presets."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A file that says more is damaged: the shapes of such a model would take minutes, and its weights all memory.
LARGEST, MOST_LAYERS = 2**20, 2**8

ACTIVATIONS = ("quick_gelu", "gelu")

# CLIP's own pixel statistics (Radford et al. 2021), for pixels in [0, 1].
CLIP_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# ImageNet's, which PCME++ feeds CLIP's towers with.
IMAGENET_PIXEL_MEAN = (0.485, 0.456, 0.406)
IMAGENET_PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square patches.

    `pool` is "cls" (a class token is prepended) or "mean" (no class token). With `patch_normalization` every
    patch loses its mean per channel and is divided by its own standard deviation; the means are appended as
    inputs. `pixel_mean` and `pixel_std` apply to pixels in [0, 1]. `position_std` is the initial scale only. `resize`
    says how an image becomes a square (`data.preprocess`).

    Raises:
      ValueError: for a choice or a size that does not fit.
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

    def __post_init__(self):
        _check_tower(self, pools=("cls", "mean"))
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """How many tokens the tower works on: the patches, and the class token if there is one."""
        return self.patches + (self.pool == "cls")


@dataclass(frozen=True)
class TextConfig:
    """A text transformer.

    `pool` is "end" (the first end token) or "mean" (all tokens but pads). Pads are masked where `causal` is
    false; a causal tower needs no mask, since pads stand behind the end token. The two `_std` are initial
    scales only.

    Raises:
      ValueError: for a choice or a size that does not fit, or for a pad id that would hide a real token.
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
    start_id: int = 49406
    end_id: int = 49407
    pad_id: int = 49407
    token_std: float = 0.02
    position_std: float = 0.01

    def __post_init__(self):
        _check_tower(self, pools=("end", "mean"))
        for name in ("start_id", "end_id", "pad_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected an id below {self.vocab_size}")
        if self.pool == "mean" and self.pad_id in (self.start_id, self.end_id):
            raise ValueError(
                f"pad_id: got {self.pad_id}, which is also the start or end id; mean pooling needs a pad id of its own"
            )


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers and the dimension of the space they share."""

    vision: VisionConfig
    text: TextConfig
    embedding_dim: int
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        check_numbers(
            {"embedding_dim": self.embedding_dim, "layer_norm_eps": self.layer_norm_eps},
            field_types(CLIPConfig),
            "CLIPConfig",
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict that survives JSON; `from_dict` is its inverse."""
        values = dataclasses.asdict(self)
        for name in ("pixel_mean", "pixel_std"):
            values["vision"][name] = list(values["vision"][name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPConfig:
        """Config from what `to_dict` gave.

        Raises:
          ValueError: for an unknown or a missing key.
        """
        check_keys(cls, values, "CLIP config")
        if not all(isinstance(values[name], Mapping) for name in ("vision", "text")):
            raise ValueError("CLIP config: vision and text: expected an object each")
        vision, text = dict(values["vision"]), dict(values["text"])
        check_keys(VisionConfig, vision, "CLIP config, vision")
        check_keys(TextConfig, text, "CLIP config, text")
        for name in {"pixel_mean", "pixel_std"} & set(vision):
            vision[name] = tuple(vision[name]) if isinstance(vision[name], list) else vision[name]
        top = {name: value for name, value in values.items() if name not in ("vision", "text")}
        for kind, given in ((cls, top), (VisionConfig, vision), (TextConfig, text)):
            check_numbers(given, field_types(kind), kind.__name__)
        return cls(**top, vision=VisionConfig(**vision), text=TextConfig(**text))


def check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises ValueError if `values` is no object, has a key the dataclass `cls` lacks, or lacks one it needs."""
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
    """Checks values that come from files against the types of a dataclass, by name; other types are not looked at.

    Raises:
      ValueError: unless sizes are whole numbers from 1 to 2^20 (layers: 2^8; ids from 0, and so what may be left out),
        scales finite numbers, and pixel statistics three of these.
    """
    for name, value in values.items():
        kind = types[name].removesuffix(" | None")
        if value is None and kind != types[name]:
            continue
        least = 0 if name.endswith("_id") or name in ("dim", "decoder_width") else 1
        most = MOST_LAYERS if name == "layers" else LARGEST
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind == "int" and not (number and isinstance(value, int) and least <= value <= most):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a whole number from {least} to {most}")
        if kind == "float" and not (number and abs(value) < float("inf")):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a finite number")
        if kind == "bool" and not isinstance(value, bool):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected true or false")
        if kind == "str" and not isinstance(value, str):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected a text")
        if kind.startswith("tuple") and not (
            isinstance(value, tuple) and len(value) == 3 and all(map(_is_finite, value))
        ):
            raise ValueError(f"{where}.{name}: got {_short(value)}, expected three finite numbers, a channel each")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _short(value: object) -> str:
    return f"{value!r:.60}"


def field_types(cls: type) -> dict[str, str]:
    """Name -> annotation of the fields of a dataclass (a module's own, without Flax's)."""
    return {f.name: str(f.type) for f in dataclasses.fields(cls) if f.name not in ("parent", "name")}


def _check_tower(tower: VisionConfig | TextConfig, pools: tuple[str, str]) -> None:
    name = type(tower).__name__
    check_numbers(vars(tower), field_types(type(tower)), name)
    if tower.activation not in ACTIVATIONS:
        raise ValueError(f"{name}.activation: got {tower.activation!r}, expected one of {ACTIVATIONS}")
    if tower.pool not in pools:
        raise ValueError(f"{name}.pool: got {tower.pool!r}, expected one of {pools}")
    if tower.width % tower.heads:
        raise ValueError(f"{name}: width {tower.width} is not a multiple of heads {tower.heads}")


CLIP_CONFIGS = {
    "ViT-B/32": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=32, width=768, layers=12, heads=12, mlp_width=3072),
        text=TextConfig(vocab_size=49408, context_length=77, width=512, layers=12, heads=8, mlp_width=2048),
        embedding_dim=512,
    ),
    "ViT-B/16": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_width=3072),
        text=TextConfig(vocab_size=49408, context_length=77, width=512, layers=12, heads=8, mlp_width=2048),
        embedding_dim=512,
    ),
    "ViT-L/14": CLIPConfig(
        vision=VisionConfig(image_size=224, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096),
        text=TextConfig(vocab_size=49408, context_length=77, width=768, layers=12, heads=12, mlp_width=3072),
        embedding_dim=768,
    ),
    "ViT-L/14-336": CLIPConfig(
        vision=VisionConfig(image_size=336, patch_size=14, width=1024, layers=24, heads=16, mlp_width=4096),
        text=TextConfig(vocab_size=49408, context_length=77, width=768, layers=12, heads=12, mlp_width=3072),
        embedding_dim=768,
    ),
    # For the embedded default: learns on a CPU in a minute. Four patches, one per drawn cell, normalized. Embeddings
    # start large: with CLIP's .02 the first residual branch drowns the words (mAP@R halves after 600 steps).
    "tiny": CLIPConfig(
        vision=VisionConfig(
            image_size=32,
            patch_size=16,
            width=128,
            layers=2,
            heads=4,
            mlp_width=512,
            activation="gelu",
            pool="mean",
            patch_normalization=True,
            pixel_mean=(0.5, 0.5, 0.5),
            pixel_std=(1.0, 1.0, 1.0),
            position_std=1.0,
        ),
        text=TextConfig(
            vocab_size=512,
            context_length=20,
            width=64,
            layers=1,
            heads=4,
            mlp_width=256,
            activation="gelu",
            pool="mean",
            causal=False,
            token_std=1.0,
            position_std=1.0,
            pad_id=0,
            start_id=1,
            end_id=2,
        ),
        embedding_dim=64,
    ),
}
