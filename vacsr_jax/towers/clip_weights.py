"""Reads and writes CLIP weights in Hugging Face's files (safetensors, no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_hf_config import check_expressible, read_hf_config, write_hf_config
from vacsr_jax.towers.hf import CONFIG, find_folder, read_tensors
from vacsr_jax.towers.image_processor import PREPROCESSOR, write_preprocessor
from vacsr_jax.towers.weights import Layout, fill, linear_names, norm_names, one, save_folder, to_tensors

BLOCK_LINEAR = {
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.out_proj": "attention/out",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}


def load_hf_clip(folder_or_hub_name: str | Path, *, revision: str | None = None) -> tuple[CLIPConfig, dict[str, Any]]:
    """Loads config and float32 `params` of a Hugging Face CLIP, for `CLIP(config).apply({"params": params}, ...)`.

    Reads config.json, the image processor's file, and one or many safetensors files, stored as float32, float16 or
    bfloat16. If the name is not a folder, it is fetched from the hub, at `revision`.

    Raises:
      ValueError: if the folder is incomplete or unreachable, does not hold a CLIP, its images are prepared in a way
        that is not known here, or if any tensor is unused, missing or of another shape than the config says; the
        message lists all of them.
    """
    folder = find_folder(folder_or_hub_name, revision)
    config = read_hf_config(folder)
    return config, fill(config, layout(config), read_tensors(folder)[0], is_position_ids, folder)


def save_hf_clip(
    folder: str | Path, config: CLIPConfig, params: Mapping[str, Any], *, like: str | Path | None = None
) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors in Hugging Face's layout.

    `like` is the folder that `params` were loaded from; see `weights.save_folder`. Without it, tensors are float32.

    Raises:
      ValueError: if Hugging Face's CLIP cannot express `config`, or `params` or `like` do not fit it.
    """
    check_expressible(config)
    tensors = to_tensors(config, layout(config), params)
    if like is None:
        files = {CONFIG: write_hf_config(config), PREPROCESSOR: write_preprocessor(config.vision)}
        return save_folder(folder, tensors, files)
    source = find_folder(like, None)
    if read_hf_config(source) != config:
        raise ValueError(f"like: {source} has a different config from the one to save; leave `like` out")
    return save_folder(folder, tensors, {}, like=source)


def layout(config: CLIPConfig) -> Layout:
    """How Hugging Face's files hold a CLIP."""
    return {
        "logit_scale": one("logit_scale"),
        "visual_projection.weight": one("vision_projection/kernel", "linear"),
        "text_projection.weight": one("text_projection/kernel", "linear"),
        "vision_model.embeddings.class_embedding": one("vision/class_embedding"),
        **norm_names("vision_model.pre_layrnorm", "vision/pre_norm"),  # spelt like this in every checkpoint
        **shared_names(config),
    }


def shared_names(config: CLIPConfig) -> Layout:
    """The tensors that Hugging Face's CLIP and SigLIP have in common."""
    names = {
        "vision_model.embeddings.patch_embedding.weight": one("vision/patch_embedding/kernel", "patch"),
        "vision_model.embeddings.position_embedding.weight": one("vision/position_embedding"),
        "text_model.embeddings.token_embedding.weight": one("text/token_embedding"),
        "text_model.embeddings.position_embedding.weight": one("text/position_embedding"),
        **norm_names("vision_model.post_layernorm", "vision/post_norm"),
        **norm_names("text_model.final_layer_norm", "text/final_norm"),
    }
    for tower, layers in (("vision", config.vision.layers), ("text", config.text.layers)):
        for i in range(layers):
            hf, ours = f"{tower}_model.encoder.layers.{i}", f"{tower}/transformer/block_{i}"
            names |= norm_names(f"{hf}.layer_norm1", f"{ours}/norm_1")
            names |= norm_names(f"{hf}.layer_norm2", f"{ours}/norm_2")
            for a, b in BLOCK_LINEAR.items():
                names |= linear_names(f"{hf}.{a}", f"{ours}/{b}")
    return names


def is_position_ids(name: str, tensor: np.ndarray, config: CLIPConfig) -> bool:
    """Whether a tensor is the position buffer of old checkpoints: 0, 1, 2, ... up to the tower's length."""
    lengths = {
        "vision_model.embeddings.position_ids": config.vision.tokens,
        "text_model.embeddings.position_ids": config.text.context_length,
    }
    return name in lengths and np.array_equal(tensor.reshape(-1), np.arange(lengths[name]))
