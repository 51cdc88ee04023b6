"""Writes towers as whichever of Hugging Face's models can express them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.towers.base import TowersConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_weights import save_hf_clip
from vacsr_jax.towers.siglip import save_hf_siglip


def is_siglip(config: TowersConfig) -> bool:
    """Whether Hugging Face's SigLIP would hold such towers, and not its CLIP."""
    return isinstance(config, CLIPConfig) and config.logit_bias and config.vision.pool == "map"


def save_for_transformers(folder: str | Path, config: TowersConfig, params: Mapping[str, Any]) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors of a CLIP or a SigLIP.

    Raises:
      ValueError: if neither can express the towers; the message names the reasons.
    """
    if not isinstance(config, CLIPConfig):
        raise ValueError(f"{type(config).__name__}: transformers knows no such towers; export --format=safetensors")
    (save_hf_siglip if is_siglip(config) else save_hf_clip)(folder, config, params)
