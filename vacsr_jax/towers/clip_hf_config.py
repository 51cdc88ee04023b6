"""Converts Hugging Face's config.json of a CLIP to `CLIPConfig` and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.hf import read_object, to_json
from vacsr_jax.towers.image_processor import read_preprocessing

HF_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}

# What Hugging Face assumes for fields that config.json leaves out.
TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
VISION_DEFAULTS = {
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read_hf_config(folder: Path) -> CLIPConfig:
    """Reads `CLIPConfig` from a folder's config.json, and how images are prepared from its image processor's file.

    Raises:
      ValueError: if there is no config.json, or it does not describe a CLIP with three channels and one epsilon.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json; expected a Hugging Face CLIP folder")
    raw = read_object(folder / "config.json")
    if raw.get("model_type") != "clip":
        raise ValueError(f"{folder}: model_type is {raw.get('model_type')!r}, expected 'clip'")
    # Old files have both kinds of config; in Hugging Face, `*_config_dict` wins.
    given = {name: raw.get(f"{name}_config_dict") or raw.get(f"{name}_config") or {} for name in ("text", "vision")}
    if not all(isinstance(values, dict) for values in given.values()):
        raise ValueError(f"{folder / 'config.json'}: text_config and vision_config: expected an object for each")
    text, vision = {**TEXT_DEFAULTS, **given["text"]}, {**VISION_DEFAULTS, **given["vision"]}
    if vision["num_channels"] != 3:
        raise ValueError(f"{folder}: num_channels is {vision['num_channels']}, expected 3")
    if text["layer_norm_eps"] != vision["layer_norm_eps"]:
        raise ValueError(f"{folder}: the towers' layer_norm_eps differ; expected the same in both")
    start_id, end_id, pad_id = special_ids(text)
    sizes = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    ids = {"start_id": start_id, "end_id": end_id, "pad_id": pad_id}
    lengths = {"vocab_size": text["vocab_size"], "context_length": text["max_position_embeddings"]}
    values = {
        "vision": {**sizes, **read_preprocessing(folder, "CLIP", vision["image_size"]), **tower_fields(vision)},
        "text": {**lengths, **ids, **tower_fields(text)},
        "embedding_dim": raw.get("projection_dim", 512),
        "layer_norm_eps": text["layer_norm_eps"],
    }
    return CLIPConfig.from_dict(values)


def tower_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both towers share, under our names."""
    return {
        "width": tower["hidden_size"],
        "layers": tower["num_hidden_layers"],
        "heads": tower["num_attention_heads"],
        "mlp_width": tower["intermediate_size"],
        "activation": HF_ACTIVATIONS.get(str(tower["hidden_act"]), tower["hidden_act"]),
    }


def hf_activation(name: str) -> str:
    """Hugging Face's name of an activation."""
    return "gelu_pytorch_tanh" if name == "gelu_tanh" else name


def special_ids(text: Mapping[str, Any]) -> tuple[int, int, int]:
    """Returns the start, end and pad id.

    OpenAI's files say `eos_token_id: 2`, for which Hugging Face pools at the largest id of a row. In CLIP's own
    vocabulary that is the first 49407. In any other vocabulary it is not an end token at all.
    """
    if text["eos_token_id"] != 2:
        end_id = text["eos_token_id"]
        pad_id = end_id if text["pad_token_id"] is None else text["pad_token_id"]
        return text["bos_token_id"], end_id, pad_id
    if text["vocab_size"] != 49408:
        raise ValueError(
            f"eos_token_id: got 2 with a vocabulary of {text['vocab_size']}, which would pool at the largest id of a "
            "row and is not supported; set eos_token_id in config.json to the id of the real end token"
        )
    return 49406, 49407, 49407


def check_expressible(config: CLIPConfig) -> None:
    """Raises ValueError, with the reasons, for a config that Hugging Face's CLIP cannot express."""
    v, t = config.vision, config.text
    cannot = {
        "vision.pool must be 'cls'": v.pool != "cls",
        "vision.pre_norm must be on, norm_last and patch_bias off": not v.pre_norm or v.norm_last or v.patch_bias,
        "there must be an image projection, and no logit_bias or text_bias": not config.image_projection
        or config.logit_bias
        or config.text_bias,
        "text.start_id must be an id": t.start_id is None,
        "vision.patch_normalization must be off": v.patch_normalization,
        "text.pool must be 'end'": t.pool != "end",
        "text.causal must be on": not t.causal,
        "text.end_id must not be 2 (there it means another pooling)": t.end_id == 2,
    }
    if any(cannot.values()):
        reasons = "; ".join(reason for reason, holds in cannot.items() if holds)
        raise ValueError(f"Hugging Face's CLIP cannot express this config: {reasons}")


def hf_tower_fields(tower: TextConfig | VisionConfig, layer_norm_eps: float) -> dict[str, Any]:
    """What Hugging Face calls the shape of a transformer, in CLIP's and in SigLIP's config.json."""
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp_width,
        "hidden_act": hf_activation(tower.activation),
        "layer_norm_eps": layer_norm_eps,
    }


def write_hf_config(config: CLIPConfig) -> bytes:
    """The bytes of config.json for a config that `check_expressible` accepts."""
    v, t = config.vision, config.text
    ids = {"bos_token_id": t.start_id, "eos_token_id": t.end_id, "pad_token_id": t.pad_id}
    text: dict[str, Any] = {"vocab_size": t.vocab_size, "max_position_embeddings": t.context_length, **ids}
    vision: dict[str, Any] = {"image_size": v.image_size, "patch_size": v.patch_size, "num_channels": 3}
    for tower, values in ((t, text), (v, vision)):
        values |= hf_tower_fields(tower, config.layer_norm_eps) | {"projection_dim": config.embedding_dim}
    return to_json(
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config.embedding_dim,
            "text_config": {"model_type": "clip_text_model", **text},
            "vision_config": {"model_type": "clip_vision_model", **vision},
        }
    )
