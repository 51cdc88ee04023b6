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
from vacsr_jax.towers.hf import CONFIG, OPEN_CLIP_CONFIG, find_folder, read_object
from vacsr_jax.towers.open_clip import load_open_clip, open_clip_tokenizer
from vacsr_jax.towers.siglip import load_hf_siglip, refuse_naflex


@dataclass(frozen=True)
class TowerFamily:
    """A family of two-tower models.

    Attributes:
      config: the class of its config.
      load: folder -> its config and float32 params, from a folder of such a model. Among the params, `logit_scale` is
        the logarithm of the scale that the model was trained with, and `logit_bias`, if there is one, its bias.
      tokenizer: folder -> the arguments of `data.tokenizer.load_tokenizer` that differ from its defaults.
      ids: whether the ids of special tokens in the config are those of the tokenizer, as they are in CLIP's files;
        False: the tokenizer alone knows them.
    """

    config: type[TowersConfig]
    load: Callable[[Path], tuple[TowersConfig, dict[str, Any]]]
    tokenizer: Callable[[Path], dict[str, Any]] = lambda folder: {}
    ids: bool = True


# The key is Hugging Face's `model_type`, or the beginning of OpenCLIP's file names. The first key of a config's class
# is also the name in a model's description.
TOWERS = {
    "clip": TowerFamily(CLIPConfig, load_hf_clip),
    "siglip": TowerFamily(CLIPConfig, load_hf_siglip, lambda folder: {"kind": "siglip"}, ids=False),
    "open_clip": TowerFamily(CLIPConfig, load_open_clip, open_clip_tokenizer, ids=False),
    "embeddings": TowerFamily(EmbeddingsConfig, load_nothing),
}


def find_family(folder: Path) -> TowerFamily:
    """The family of the model in a folder. A folder with Hugging Face's files and OpenCLIP's counts as the former.

    Raises:
      ValueError: if its model belongs to no family of `TOWERS`.
    """
    is_open_clip = (folder / OPEN_CLIP_CONFIG).is_file()
    if not (folder / CONFIG).is_file():
        if is_open_clip:
            return TOWERS["open_clip"]
        raise ValueError(
            f"{folder}: no {CONFIG}; expected a Hugging Face folder of a model of type {' or '.join(TOWERS)}"
        )
    kind = read_object(folder / CONFIG).get("model_type")
    if isinstance(kind, str) and kind in TOWERS:
        return TOWERS[kind]
    if is_open_clip:
        return TOWERS["open_clip"]
    if kind == "siglip2":
        refuse_naflex(folder)
    raise ValueError(f"{folder}: model_type is {kind!r:.80}, expected one of {', '.join(TOWERS)}")


def load_towers(folder_or_hub_name: str | Path) -> tuple[TowersConfig, dict[str, Any]]:
    """Loads config and params of pretrained towers from a Hugging Face folder or hub name.

    Raises:
      ValueError: if there is no such folder, its model belongs to no family of `TOWERS`, or its files do not fit.
    """
    folder = find_folder(folder_or_hub_name, None)
    return find_family(folder).load(folder)


def describe_towers(config: TowersConfig) -> dict[str, Any]:
    """Returns {name of the family: its config as plain JSON values}."""
    name = next(name for name, towers in TOWERS.items() if isinstance(config, towers.config))
    return {name: config.to_dict()}


__all__ = ["TOWERS", "TowerFamily", "TowersConfig", "check_tokens", "describe_towers", "find_family", "load_towers"]
