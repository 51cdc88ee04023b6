"""OpenCLIP's folders: vision transformers with the standard text tower, in the style of CLIP or SigLIP.

A folder has open_clip_config.json, open_clip_model.safetensors, and the tokenizer's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.towers.base import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.hf import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    WEIGHTS,
    find_folder,
    read_object,
    read_tensors,
)
from vacsr_jax.towers.image_processor import interpolation
from vacsr_jax.towers.siglip import TEXT_CHOICES, VISION_CHOICES
from vacsr_jax.towers.weights import (
    Layout,
    Stored,
    attention_leaves,
    fill,
    linear_names,
    norm_names,
    one,
    packed_attention_names,
    save_folder,
    to_tensors,
)

VISION_DEFAULTS = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
TEXT_DEFAULTS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}

# Fields that change the towers in a way that is not known here; they are refused unless they have these values.
PLAIN: dict[str, Any] = {
    "ls_init_value": None,
    "attentional_pool": False,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "embed_cls": False,
    "proj_type": "linear",
    "pos_embed_type": "learnable",
}

# SigLIP's image towers, by their size in timm's names: width, layers, heads, hidden units.
TIMM_SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
TIMM_NAME = re.compile(r"vit_(\w+?)_patch(\d+)_siglip_(\d+)$")
TIMM_EPSILON = 1e-6
# timm gives these the tanh form of GELU, and the exact one to the rest.
TIMM_TANH = re.compile(r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_|vit_large_patch16_siglip_512$")

FALLBACK_TOKENIZER = "openai/clip-vit-large-patch14"  # where OpenCLIP takes CLIP's vocabulary from


def load_open_clip(folder_or_hub_name: str | Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """Loads config and float32 `params` of an OpenCLIP folder.

    The ids in the text config are placeholders; `pretrained.load` sets those of the tokenizer.

    Raises:
      ValueError: if the folder is incomplete, its model is not a vision transformer with the standard text tower (the
        message names what it is), or a tensor is unused, missing or misshapen.
    """
    folder = find_folder(folder_or_hub_name, None)
    config, layout = read_open_clip(folder)
    return config, fill(config, layout, read_tensors(folder, weights_of(folder))[0], is_mask, folder)


def save_open_clip(folder: str | Path, config: CLIPConfig, params: Mapping[str, Any], *, like: str | Path) -> None:
    """Writes weights as they are in the folder `like`, with its other files; see `weights.save_folder`.

    Raises:
      ValueError: if `params` do not fit the config, or the config is not that of `like`.
    """
    source = find_folder(like, None)
    known, layout = read_open_clip(source)
    if known.vision != config.vision:
        raise ValueError(f"like: {source} has a different config from the one to save")
    save_folder(folder, to_tensors(config, layout, params), {}, like=source, weights=weights_of(source))


def weights_of(folder: Path) -> str:
    """The name of the folder's weights."""
    return OPEN_CLIP_WEIGHTS if (folder / OPEN_CLIP_WEIGHTS).is_file() or not (folder / WEIGHTS).is_file() else WEIGHTS


def read_open_clip(folder: Path) -> tuple[CLIPConfig, Layout]:
    """Reads the config, and how the folder's weights hold such a model.

    Raises:
      ValueError: for a model of another kind, or a choice that is not known here; the message names it.
    """
    file = folder / OPEN_CLIP_CONFIG
    raw = read_object(file)
    model = raw.get("model_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(x), dict) for x in ("vision_cfg", "text_cfg")):
        raise ValueError(f"{file}: expected an object model_cfg with vision_cfg and text_cfg")
    vision, text = model["vision_cfg"], model["text_cfg"]
    refuse_kinds(file, model, vision, text)
    quick = bool(model.get("quick_gelu"))
    vision_values, epsilons = read_vision(file, vision, quick)
    text_values = read_text(file, text, quick)
    epsilons.append(norm_epsilon(file, "text_cfg", text))
    if len(set(epsilons)) > 1:
        raise ValueError(f"{file}: norm_kwargs: the towers' epsilons differ ({epsilons}); expected the same in both")
    preprocessing = read_preprocessing(file, raw.get("preprocess_cfg") or {}, vision_values["image_size"])
    has_projection = "timm_model_name" not in vision or vision.get("timm_proj") == "linear"
    values = {
        "vision": {**vision_values, **preprocessing},
        "text": text_values,
        "embedding_dim": model.get("embed_dim"),
        "layer_norm_eps": epsilons[0],
        "logit_bias": model.get("init_logit_bias") is not None,
        "text_bias": bool(text.get("proj_bias")),
        "image_projection": has_projection,
    }
    config = CLIPConfig.from_dict(values)
    boxed = bool(model.get("nonscalar_logit_scale"))
    prefix = "text." if model.get("custom_text") else ""
    return config, make_layout(config, timm="timm_model_name" in vision, prefix=prefix, boxed=boxed)


def refuse_kinds(file: Path, model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Raises ValueError for models with other towers, and names them."""
    works = "expected a vision transformer with the standard text tower (such as ViT-B-32 or ViT-B-16-SigLIP2)"
    timm = vision.get("timm_model_name")
    if "multimodal_cfg" in model:
        raise ValueError(f"{file}: it is a CoCa (multimodal_cfg), which is not supported; {works}")
    if text.get("hf_model_name"):
        raise ValueError(
            f"{file}: its text tower is Hugging Face's {text['hf_model_name']} (hf_model_name), which is not "
            f"supported; {works}"
        )
    if isinstance(vision.get("layers"), list):
        raise ValueError(f"{file}: its image tower is a ResNet (vision_cfg.layers is a list), not supported; {works}")
    if timm is not None and not (isinstance(timm, str) and known_size(timm)):
        kind = "ConvNeXt" if str(timm).startswith("convnext") else "timm model"
        raise ValueError(f"{file}: its image tower is the {kind} {timm} (timm_model_name), not supported; {works}")
    for name, part in (("vision_cfg", vision), ("text_cfg", text)):
        for field, plain in PLAIN.items():
            if part.get(field, plain) not in (plain, None):
                raise ValueError(f"{file}: {name}.{field}: got {part[field]!r}, expected {plain!r}; {works}")


def known_size(timm_name: str) -> tuple[tuple[int, int, int, int], int] | None:
    """The sizes and the patch size of one of timm's image towers of SigLIP, or None."""
    match = TIMM_NAME.match(timm_name)
    return (TIMM_SIZES[match[1]], int(match[2])) if match and match[1] in TIMM_SIZES else None


def read_vision(file: Path, vision: Mapping[str, Any], quick: bool) -> tuple[dict[str, Any], list[float]]:
    """The fields of `VisionConfig`, without preprocessing, and the epsilon of its norms."""
    values = {**VISION_DEFAULTS, **vision}
    if "timm_model_name" in vision:
        size = known_size(vision["timm_model_name"])
        assert size is not None  # `refuse_kinds` has asked
        (width, layers, heads, mlp_width), patch_size = size
        if vision.get("timm_pool") != "map" or vision.get("timm_proj", "linear") not in ("none", "linear"):
            raise ValueError(
                f"{file}: timm_pool and timm_proj: got {vision.get('timm_pool')!r} and {vision.get('timm_proj')!r}, "
                "expected 'map' and 'none' or 'linear'"
            )
        if vision.get("timm_proj_bias"):
            raise ValueError(f"{file}: timm_proj_bias: got true, expected false")
        sizes = {"width": width, "layers": layers, "heads": heads, "mlp_width": mlp_width, "patch_size": patch_size}
        activation = "gelu_tanh" if TIMM_TANH.match(vision["timm_model_name"]) else "gelu"
        return {**sizes, "image_size": values["image_size"], "activation": activation, **VISION_CHOICES}, [TIMM_EPSILON]
    pool = values.get("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise ValueError(f"{file}: vision_cfg.pool_type: got {pool!r}, expected 'tok' or 'avg'")
    numbers(file, "vision_cfg", values, ("width", "layers", "head_width", "patch_size", "image_size", "mlp_ratio"))
    found = {
        **{name: values[name] for name in ("width", "layers", "patch_size", "image_size")},
        "heads": values["width"] // values["head_width"],
        "mlp_width": int(values["width"] * values["mlp_ratio"]),
        "activation": activation_of(file, "vision_cfg", vision, quick),
        "pool": "cls" if pool == "tok" else "patches",
        "pre_norm": not values.get("no_ln_pre"),
        "norm_last": bool(values.get("final_ln_after_pool")),
    }
    return found, [norm_epsilon(file, "vision_cfg", vision)]


def read_text(file: Path, text: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """The fields of `TextConfig`; ids are placeholders."""
    values = {**TEXT_DEFAULTS, **text}
    numbers(file, "text_cfg", values, ("width", "layers", "heads", "vocab_size", "context_length", "mlp_ratio"))
    pool, causal = values.get("pool_type", "argmax"), not values.get("no_causal_mask")
    if pool not in ("argmax", "eos", "last") or (pool != "last" and not causal):
        got = f"{pool!r}{'' if causal else ' without a causal mask'}"
        raise ValueError(
            f"{file}: text_cfg.pool_type: got {got}, expected 'argmax' or 'eos' with a causal mask, or 'last'"
        )
    end_id = values["eos_id"] if pool == "eos" and "eos_id" in values else values["vocab_size"] - 1
    ids = {"start_id": None, "end_id": end_id, "pad_id": end_id, "pool": "end"}
    return {
        **{name: values[name] for name in ("width", "layers", "heads", "vocab_size", "context_length")},
        "mlp_width": int(values["width"] * values["mlp_ratio"]),
        "activation": activation_of(file, "text_cfg", text, quick),
        **(TEXT_CHOICES if pool == "last" else ids),
        "causal": causal,
    }


def numbers(file: Path, part: str, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises ValueError unless these values are positive numbers."""
    for name in names:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{file}: {part}.{name}: got {value!r:.60}, expected a positive number")


def activation_of(file: Path, part: str, values: Mapping[str, Any], quick: bool) -> str:
    """The name of an activation; `act_kwargs` can only ask for the tanh form of GELU."""
    given = values.get("act_kwargs") or {}
    if not given:
        return "quick_gelu" if quick else "gelu"
    if given != {"approximate": "tanh"} or quick:
        raise ValueError(
            f"{file}: {part}.act_kwargs: got {given!r:.60}, expected approximate='tanh' without quick_gelu"
        )
    return "gelu_tanh"


def norm_epsilon(file: Path, part: str, values: Mapping[str, Any]) -> float:
    """The epsilon of a tower's norms; torch's default is 1e-5."""
    given = values.get("norm_kwargs") or {}
    if not isinstance(given, dict) or set(given) - {"eps"}:
        raise ValueError(f"{file}: {part}.norm_kwargs: got {given!r:.60}, expected nothing but eps")
    return given.get("eps", 1e-5)


def read_preprocessing(file: Path, given: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The fields of `VisionConfig` that say how images are prepared, from preprocess_cfg.

    Raises:
      ValueError: for a resize_mode, an interpolation or a size that cannot be obeyed, or an unknown field.
    """
    known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
    modes = {"shortest": "crop_rounded", "squash": "squash"}
    mode, by = given.get("resize_mode") or "shortest", given.get("interpolation") or "bicubic"
    if set(given) - known:
        raise ValueError(f"{file}: preprocess_cfg: unknown field {min(set(given) - known)!r}")
    if mode not in modes:
        raise ValueError(
            f"{file}: preprocess_cfg.resize_mode: got {mode!r}, expected {' or '.join(modes)}: others pad the image"
        )
    if by not in ("bicubic", "bilinear"):
        raise ValueError(f"{file}: preprocess_cfg.interpolation: got {by!r}, expected bicubic or bilinear")
    size = given.get("size")
    if size not in (None, image_size, [image_size, image_size]):
        raise ValueError(f"{file}: preprocess_cfg.size: got {size!r}, expected {image_size}, which the model takes")
    if given.get("mode", "RGB") != "RGB":
        raise ValueError(f"{file}: preprocess_cfg.mode: got {given['mode']!r}, expected 'RGB'")
    statistics = {"pixel_mean": given.get("mean"), "pixel_std": given.get("std")}
    defaults = {"pixel_mean": CLIP_PIXEL_MEAN, "pixel_std": CLIP_PIXEL_STD}
    found = {
        name: defaults[name] if x is None else tuple(x) if isinstance(x, list) else x for name, x in statistics.items()
    }
    return {"resize": modes[mode], "interpolation": interpolation(by, mode == "squash"), **found}


def open_clip_tokenizer(folder: Path) -> dict[str, Any]:
    """The arguments of `data.tokenizer.load_tokenizer`: which kind it is, how texts are cleaned, and where it is."""
    text = read_object(folder / OPEN_CLIP_CONFIG)["model_cfg"]["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    clean = str(options.get("clean") or "").replace("canonicalize", "canonical")
    unknown = set(options) - {"clean", "strip_sep_token"}
    if unknown or text.get("tokenizer_mode"):
        name = min(unknown) if unknown else "tokenizer_mode"
        raise ValueError(f"{folder / OPEN_CLIP_CONFIG}: text_cfg.{name}: it is not known here")
    name = text.get("hf_tokenizer_name")
    has_files = any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "spiece.model"))
    source = folder if has_files else find_folder(name or FALLBACK_TOKENIZER, None)
    ends = text.get("pool_type", "argmax") == "last"
    kind = "clip" if not ends else "bert" if options.get("strip_sep_token") else "siglip"
    return {"source": source, "kind": kind, "clean": clean or ("whitespace" if name else "lower")}


def make_layout(config: CLIPConfig, *, timm: bool, prefix: str, boxed: bool) -> Layout:
    """How OpenCLIP's files hold a model.

    Args:
      timm: whether the image tower is timm's.
      prefix: of the text tower's names.
      boxed: whether scale and bias have an axis of length 1.
    """
    kind = "boxed" if boxed else "same"
    names = {
        "logit_scale": one("logit_scale", kind),
        **({"logit_bias": one("logit_bias", kind)} if config.logit_bias else {}),
        f"{prefix}token_embedding.weight": one("text/token_embedding"),
        f"{prefix}positional_embedding": one("text/position_embedding"),
        **norm_names(f"{prefix}ln_final", "text/final_norm"),
        **blocks(f"{prefix}transformer", "text", config.text.layers),
        **(timm_names(config) if timm else vision_names(config)),
    }
    if config.text_bias:
        return names | linear_names(f"{prefix}text_projection", "text_projection")
    return names | {f"{prefix}text_projection": one("text_projection/kernel")}


def blocks(theirs: str, ours: str, layers: int) -> Layout:
    """The blocks of OpenCLIP's transformer."""
    names: Layout = {}
    for i in range(layers):
        block, leaf = f"{theirs}.resblocks.{i}", f"{ours}/transformer/block_{i}"
        names |= norm_names(f"{block}.ln_1", f"{leaf}/norm_1") | norm_names(f"{block}.ln_2", f"{leaf}/norm_2")
        names |= packed_attention_names(f"{block}.attn", leaf)
        names |= linear_names(f"{block}.mlp.c_fc", f"{leaf}/mlp_in")
        names |= linear_names(f"{block}.mlp.c_proj", f"{leaf}/mlp_out")
    return names


def vision_names(config: CLIPConfig) -> Layout:
    """OpenCLIP's own image tower."""
    return {
        "visual.class_embedding": one("vision/class_embedding"),
        "visual.positional_embedding": one("vision/position_embedding"),
        "visual.conv1.weight": one("vision/patch_embedding/kernel", "patch"),
        "visual.proj": one("vision_projection/kernel"),
        **(norm_names("visual.ln_pre", "vision/pre_norm") if config.vision.pre_norm else {}),
        **norm_names("visual.ln_post", "vision/post_norm"),
        **blocks("visual.transformer", "vision", config.vision.layers),
    }


def timm_names(config: CLIPConfig) -> Layout:
    """timm's image tower of SigLIP."""
    trunk, pool = "visual.trunk", "visual.trunk.attn_pool"
    names = {
        f"{trunk}.patch_embed.proj.weight": one("vision/patch_embedding/kernel", "patch"),
        f"{trunk}.patch_embed.proj.bias": one("vision/patch_embedding/bias"),
        f"{trunk}.pos_embed": one("vision/position_embedding", "boxed"),
        **norm_names(f"{trunk}.norm", "vision/post_norm"),
        f"{pool}.latent": one("vision/head/probe", "probe"),
        **linear_names(f"{pool}.q", "vision/head/attention/query"),
        **linear_names(f"{pool}.kv", *attention_leaves("vision/head")[1:]),
        **linear_names(f"{pool}.proj", "vision/head/attention/out"),
        **norm_names(f"{pool}.norm", "vision/head/norm"),
        **linear_names(f"{pool}.mlp.fc1", "vision/head/mlp_in"),
        **linear_names(f"{pool}.mlp.fc2", "vision/head/mlp_out"),
    }
    if config.image_projection:
        names["visual.head.proj.weight"] = Stored(("vision_projection/kernel",), "linear")
    for i in range(config.vision.layers):
        block, leaf = f"{trunk}.blocks.{i}", f"vision/transformer/block_{i}"
        names |= norm_names(f"{block}.norm1", f"{leaf}/norm_1") | norm_names(f"{block}.norm2", f"{leaf}/norm_2")
        names |= linear_names(f"{block}.attn.qkv", *attention_leaves(leaf))
        names |= linear_names(f"{block}.attn.proj", f"{leaf}/attention/out")
        names |= linear_names(f"{block}.mlp.fc1", f"{leaf}/mlp_in") | linear_names(
            f"{block}.mlp.fc2", f"{leaf}/mlp_out"
        )
    return names


def is_mask(name: str, tensor: np.ndarray, config: CLIPConfig) -> bool:
    """Whether a tensor is the causal mask that old checkpoints hold."""
    length = config.text.context_length
    return name.removeprefix("text.") == "attn_mask" and tensor.shape == (length, length)
