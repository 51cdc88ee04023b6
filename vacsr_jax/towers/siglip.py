"""SigLIP and SigLIP 2 (Zhai et al. 2023; Tschannen et al. 2025) of fixed resolution, in Hugging Face's files.

The two differ in size and tokenizer alone. Their towers are those of `towers.clip` with other choices: no class token
and no norm before the first block; attention pooling of the image; a text tower without a mask, pooled at its last
position, pads included; a bias in the text projection, none for images; and a learned bias beside the learned scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_hf_config import hf_tower_fields, tower_fields
from vacsr_jax.towers.clip_weights import is_position_ids, shared_names
from vacsr_jax.towers.hf import CONFIG, find_folder, read_object, read_tensors, to_json
from vacsr_jax.towers.image_processor import PREPROCESSOR, read_preprocessing, write_preprocessor
from vacsr_jax.towers.weights import (
    Layout,
    fill,
    linear_names,
    norm_names,
    one,
    packed_attention_names,
    save_folder,
    to_tensors,
)

# What Hugging Face assumes for fields that config.json leaves out; the rest of both towers is the same.
SHARED = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT_DEFAULTS = {**SHARED, "vocab_size": 32000, "max_position_embeddings": 64}
VISION_DEFAULTS = {**SHARED, "image_size": 224, "patch_size": 16, "num_channels": 3, "vision_use_head": True}

# Of both generations' tokenizers. The ids in config.json are no help: Hugging Face's defaults are those of CLIP.
END_ID, PAD_ID = 1, 1

TEXT_CHOICES = {"pool": "last", "causal": False, "start_id": None, "end_id": END_ID, "pad_id": PAD_ID}
VISION_CHOICES = {"pool": "map", "pre_norm": False, "patch_bias": True}


def load_hf_siglip(folder_or_hub_name: str | Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """Loads config and float32 `params` of a Hugging Face SigLIP or SigLIP 2 of fixed resolution.

    The ids in the text config are those of the first generation; `pretrained.load` sets those of the tokenizer.

    Raises:
      ValueError: as `clip_weights.load_hf_clip`.
    """
    folder = find_folder(folder_or_hub_name, None)
    config = read_siglip_config(folder)
    return config, fill(config, layout(config), read_tensors(folder)[0], is_position_ids, folder)


def refuse_naflex(folder: Path) -> None:
    """Raises ValueError: the variants of type siglip2 take images of any shape, which these towers do not."""
    raise ValueError(
        f"{folder}: model_type is 'siglip2', a NaFlex variant, whose image tower takes any number of patches of any "
        "aspect ratio and is not supported; load the variant of fixed resolution (google/siglip2-base-patch16-256 in "
        "place of google/siglip2-base-patch16-naflex), whose model_type is 'siglip'"
    )


def read_siglip_config(folder: Path) -> CLIPConfig:
    """Reads `CLIPConfig` from a SigLIP's config.json, and how images are prepared from its image processor's file.

    Raises:
      ValueError: if the file does not describe a SigLIP whose towers fit together.
    """
    raw = read_object(folder / CONFIG)
    given = {name: raw.get(f"{name}_config") or {} for name in ("text", "vision")}
    if not all(isinstance(values, dict) for values in given.values()):
        raise ValueError(f"{folder / CONFIG}: text_config and vision_config: expected an object for each")
    text, vision = {**TEXT_DEFAULTS, **given["text"]}, {**VISION_DEFAULTS, **given["vision"]}
    if vision["num_channels"] != 3:
        raise ValueError(f"{folder}: num_channels is {vision['num_channels']}, expected 3")
    if vision["vision_use_head"] is not True:
        raise ValueError(f"{folder}: vision_use_head is {vision['vision_use_head']}, expected true")
    if text["layer_norm_eps"] != vision["layer_norm_eps"]:
        raise ValueError(f"{folder}: the towers' layer_norm_eps differ; expected the same in both")
    sizes = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    preprocessing = read_preprocessing(folder, "Siglip", vision["image_size"])
    lengths = {"vocab_size": text["vocab_size"], "context_length": text["max_position_embeddings"]}
    values = {
        "vision": {**sizes, **preprocessing, **tower_fields(vision), **VISION_CHOICES},
        "text": {**lengths, **tower_fields(text), **TEXT_CHOICES},
        "embedding_dim": text.get("projection_size") or text["hidden_size"],
        "layer_norm_eps": text["layer_norm_eps"],
        "logit_bias": True,
        "text_bias": True,
        "image_projection": False,
    }
    return CLIPConfig.from_dict(values)


def save_hf_siglip(
    folder: str | Path, config: CLIPConfig, params: Mapping[str, Any], *, like: str | Path | None = None
) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors as `clip_weights.save_hf_clip` does.

    Raises:
      ValueError: if Hugging Face's SigLIP cannot express `config`, or `params` or `like` do not fit it.
    """
    check_expressible(config)
    tensors = to_tensors(config, layout(config), params)
    if like is None:
        files = {CONFIG: write_siglip_config(config), PREPROCESSOR: write_preprocessor(config.vision)}
        return save_folder(folder, tensors, files)
    source = find_folder(like, None)
    if read_siglip_config(source).vision != config.vision:
        raise ValueError(f"like: {source} has a different config from the one to save; leave `like` out")
    return save_folder(folder, tensors, {}, like=source)


def check_expressible(config: CLIPConfig) -> None:
    """Raises ValueError, with the reasons, for a config that Hugging Face's SigLIP cannot express."""
    v, t = config.vision, config.text
    cannot = {
        "vision.pool must be 'map'": v.pool != "map",
        "vision.pre_norm must be off, patch_bias on": v.pre_norm or not v.patch_bias,
        "vision.patch_normalization must be off": v.patch_normalization,
        "text.pool must be 'last', causal off": t.pool != "last" or t.causal,
        "there must be a logit_bias and a text_bias, and no image projection": not (config.logit_bias)
        or not config.text_bias
        or config.image_projection,
    }
    if any(cannot.values()):
        reasons = "; ".join(reason for reason, holds in cannot.items() if holds)
        raise ValueError(f"Hugging Face's SigLIP cannot express this config: {reasons}")


def write_siglip_config(config: CLIPConfig) -> bytes:
    """The bytes of config.json for a config that `check_expressible` accepts."""
    v, t = config.vision, config.text
    ids = {"bos_token_id": t.start_id, "eos_token_id": t.end_id, "pad_token_id": t.pad_id}
    text: dict[str, Any] = {"vocab_size": t.vocab_size, "max_position_embeddings": t.context_length, **ids}
    text |= {"projection_size": config.embedding_dim, "model_type": "siglip_text_model"}
    vision: dict[str, Any] = {"image_size": v.image_size, "patch_size": v.patch_size, "num_channels": 3}
    vision |= {"vision_use_head": True, "model_type": "siglip_vision_model"}
    for tower, values in ((t, text), (v, vision)):
        values |= hf_tower_fields(tower, config.layer_norm_eps)
    return to_json(
        {"architectures": ["SiglipModel"], "model_type": "siglip", "text_config": text, "vision_config": vision}
    )


def layout(config: CLIPConfig) -> Layout:
    """How Hugging Face's files hold a SigLIP."""
    head = "vision_model.head"
    return {
        "logit_scale": one("logit_scale", "boxed"),
        "logit_bias": one("logit_bias", "boxed"),
        "vision_model.embeddings.patch_embedding.bias": one("vision/patch_embedding/bias"),
        **shared_names(config),
        f"{head}.probe": one("vision/head/probe", "probe"),
        **packed_attention_names(f"{head}.attention", "vision/head"),
        **norm_names(f"{head}.layernorm", "vision/head/norm"),
        **linear_names(f"{head}.mlp.fc1", "vision/head/mlp_in"),
        **linear_names(f"{head}.mlp.fc2", "vision/head/mlp_out"),
        **linear_names("text_model.head", "text_projection"),
    }
