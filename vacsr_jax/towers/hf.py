"""Finds or fetches Hugging Face folders, and reads their JSON and their safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vacsr_jax.atomic_files import read_json
from vacsr_jax.shipped_models import shipped_folder, suggestion

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def find_folder(folder_or_hub_name: str | Path, revision: str | None) -> Path:
    """Returns the folder itself, that of a model of the package, or a snapshot from the hub.

    Raises:
      ValueError: if it is none of these.
    """
    if Path(folder_or_hub_name).is_dir():
        return Path(folder_or_hub_name)
    name = str(folder_or_hub_name)
    found = shipped_folder(name)
    if found is not None:
        return found
    import huggingface_hub  # slow to import, and not needed for a folder

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no network, no access, a malformed name: the same message, with the cause
        hint = "" if "/" in name else f" ({suggestion(name)})"
        cause = " ".join(str(error).split())  # the hub's messages have several lines
        raise ValueError(
            f"{name!r} is neither a folder nor a repository that could be fetched{hint}: {cause}"
        ) from error


def read_tensors(folder: Path, weights: str = WEIGHTS) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns all tensors of the folder's safetensors files as stored, and the metadata of the first file."""
    indexed = weights == WEIGHTS and (folder / INDEX).is_file()
    files = indexed_files(folder / INDEX) if indexed else [weights]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        hint = ""
        if (folder / "pytorch_model.bin").is_file():
            hint = (
                "; pytorch_model.bin is not supported: convert it where torch is installed, with "
                "transformers.AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
            )
        if (folder / "open_clip_pytorch_model.bin").is_file():
            hint = (
                "; open_clip_pytorch_model.bin is not supported: convert it where torch is installed, with "
                f"safetensors.torch.save_file(torch.load(file), {OPEN_CLIP_WEIGHTS!r})"
            )
        raise ValueError(f"{folder}: no {', '.join(missing)}{hint}")
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="numpy") as f:
                metadata = metadata or f.metadata() or {}
                tensors.update(f.get_tensors())
        except Exception as error:  # a damaged header raises SafetensorError, KeyError, TypeError and more
            raise ValueError(
                f"{folder / file} cannot be read as safetensors ({error}); fetch or save it again"
            ) from error
    return tensors, metadata


def indexed_files(index: Path) -> list[str]:
    """Returns the files that an index names; they must be safetensors files beside it."""
    places = read_object(index).get("weight_map")
    names: list[Any] = list(places.values()) if isinstance(places, dict) else [places]
    wrong = [x for x in names if not isinstance(x, str) or Path(x).name != x or not x.endswith(".safetensors")]
    if wrong or not names:
        got = f"{wrong[0]!r:.80}" if wrong else "nothing"
        raise ValueError(f"{index}: weight_map: got {got}, expected names of safetensors files in the same folder")
    return sorted(set(names))


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON file that must hold an object."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file}: got {type(values).__name__}, expected a JSON object")
    return values


def to_json(values: Mapping[str, Any]) -> bytes:
    """JSON as Hugging Face writes it: indented, sorted, with a final newline."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
