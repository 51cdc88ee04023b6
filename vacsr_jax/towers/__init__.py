"""The registry of towers: every two-tower model, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vacsr_jax.towers.base import TowersConfig, check_tokens
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_weights import load_hf_clip
from vacsr_jax.towers.embeddings import EmbeddingsConfig, load_nothing
from vacsr_jax.towers.hf import CONFIG, find_folder, read_object


@dataclass(frozen=True)
class TowerFamily:
    """A family of two-tower models.

    Attributes:
      config: the class of its config.
      load: folder -> its config and float32 params, from a Hugging Face folder of such a model. Among the params,
        `logit_scale` is the logarithm of the scale that the model was trained with.
    """

    config: type[TowersConfig]
    load: Callable[[Path], tuple[TowersConfig, dict[str, Any]]]


# The key is Hugging Face's `model_type`. It is also the name in a model's description.
TOWERS = {
    "clip": TowerFamily(CLIPConfig, load_hf_clip),
    "embeddings": TowerFamily(EmbeddingsConfig, load_nothing),
}


def load_towers(folder_or_hub_name: str | Path) -> tuple[TowersConfig, dict[str, Any]]:
    """Loads config and params of pretrained towers from a Hugging Face folder or hub name.

    Raises:
      ValueError: if there is no such folder, its model belongs to no family of `TOWERS`, or its files do not fit.
    """
    folder = find_folder(folder_or_hub_name, None)
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder}: no {CONFIG}; expected a Hugging Face folder of a model of type {' or '.join(TOWERS)}"
        )
    kind = read_object(folder / CONFIG).get("model_type")
    if not isinstance(kind, str) or kind not in TOWERS:
        raise ValueError(f"{folder}: model_type is {kind!r:.80}, expected one of {', '.join(TOWERS)}")
    return TOWERS[kind].load(folder)


def describe_towers(config: TowersConfig) -> dict[str, Any]:
    """Returns {name of the family: its config as plain JSON values}."""
    name = next(name for name, towers in TOWERS.items() if isinstance(config, towers.config))
    return {name: config.to_dict()}


__all__ = ["TOWERS", "TowerFamily", "TowersConfig", "check_tokens", "describe_towers", "load_towers"]
