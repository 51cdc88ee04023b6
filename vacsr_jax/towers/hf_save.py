"""Writes towers as whichever of Hugging Face's models can express them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.towers import clip_hf_config, clip_weights, siglip
from vacsr_jax.towers.base import TowersConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.weights import Layout


def is_siglip(config: TowersConfig) -> bool:
    """Whether Hugging Face's SigLIP would hold such towers, and not its CLIP."""
    return isinstance(config, CLIPConfig) and config.logit_bias and config.vision.pool == "map"


def save_for_transformers(folder: str | Path, config: TowersConfig, params: Mapping[str, Any]) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors of a CLIP or a SigLIP.

    Raises:
      ValueError: if neither can express the towers; the message names the reasons.
    """
    save = siglip.save_hf_siglip if is_siglip(config) else clip_weights.save_hf_clip
    save(folder, check_known(config), params)


def layout_for_transformers(config: TowersConfig) -> Layout:
    """How `save_for_transformers` holds such towers; raises ValueError as it does."""
    known = check_known(config)
    if is_siglip(known):
        siglip.check_expressible(known)
        return siglip.layout(known)
    clip_hf_config.check_expressible(known)
    return clip_weights.layout(known)


def check_known(config: TowersConfig) -> CLIPConfig:
    """The config, if transformers knows such towers; else raises ValueError."""
    if not isinstance(config, CLIPConfig):
        raise ValueError(f"{type(config).__name__}: transformers knows no such towers; export --format=safetensors")
    return config
