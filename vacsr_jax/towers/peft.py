"""Reads and writes low-rank adapters in peft's files: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.towers.base import TowersConfig
from vacsr_jax.towers.hf import read_object, read_tensors, to_json
from vacsr_jax.towers.hf_save import layout_for_transformers

SETTINGS, ADAPTERS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Variants of the method whose merged weights are others; they are refused unless they are off.
OFF = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")

Adapters = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by the layer's path in the towers: A [in, r] and B [r, out]


def save_peft(folder: str | Path, config: TowersConfig, adapters: Adapters, *, alpha: float, base: str) -> None:
    """Writes adapters for the model `base`, a Hugging Face folder or hub name, as `peft.PeftModel` reads them.

    Raises:
      ValueError: if the towers are not those of a CLIP or a SigLIP of Hugging Face.
    """
    names = layer_names(config)
    tensors = {}
    for path, (a, b) in adapters.items():
        for part, matrix in (("lora_A", a), ("lora_B", b)):
            tensors[f"{PREFIX}{names[path]}.{part}.weight"] = np.ascontiguousarray(np.asarray(matrix, np.float32).T)
    ends = sorted({re.sub(r".*\.encoder\.layers\.\d+\.", "", names[path]) for path in adapters})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": next(iter(adapters.values()))[0].shape[1],
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": rf".*\.encoder\.layers\.\d+\.({'|'.join(map(re.escape, ends))})",
        "task_type": None,
        "inference_mode": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_whole(folder / ADAPTERS, lambda path: save_file(tensors, path, {"format": "pt"}))
    replace_whole(folder / SETTINGS, functools.partial(Path.write_bytes, data=to_json(settings)))


def merge_peft(folder: Path, config: TowersConfig, towers: Mapping[str, Any]) -> dict[str, Any]:
    """The towers' params with a folder's adapters added to their weights: W + alpha / r A B.

    Raises:
      ValueError: if the folder holds another kind of adapter, or tensors that do not fit the towers; it names them.
    """
    settings = read_object(folder / SETTINGS)
    on = [name for name in OFF if settings.get(name)]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or on:
        got = on[0] if on else f"peft_type {settings.get('peft_type')!r}, bias {settings.get('bias')!r}"
        raise ValueError(
            f"{folder / SETTINGS}: got {got}, expected LORA without variants and biases; merge it with peft"
        )
    rank: Any = settings.get("r")
    alpha: Any = settings.get("lora_alpha")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in (rank, alpha)):
        raise ValueError(
            f"{folder / SETTINGS}: r and lora_alpha: got {rank!r} and {alpha!r}, expected positive numbers"
        )
    tensors, flat = dict(read_tensors(folder, ADAPTERS)[0]), flatten_dict(dict(towers), sep="/")
    for path, name in layer_names(config).items():
        a, b = (tensors.pop(f"{PREFIX}{name}.{part}.weight", None) for part in ("lora_A", "lora_B"))
        if a is None and b is None:
            continue
        kernel = np.asarray(flat[f"{path}/kernel"])
        if a is None or b is None or a.shape != (rank, kernel.shape[0]) or b.shape != (kernel.shape[1], rank):
            raise ValueError(f"{folder / ADAPTERS}: {name}: lora_A and lora_B do not fit a layer of {kernel.shape}")
        product = np.asarray(b, np.float32) @ np.asarray(a, np.float32)
        flat[f"{path}/kernel"] = kernel + np.float32(alpha / rank) * product.T
    if tensors:
        raise ValueError(f"{folder / ADAPTERS}: unused tensor: {', '.join(sorted(tensors)[:3])}")
    return unflatten_dict(flat, sep="/")


def layer_names(config: TowersConfig) -> dict[str, str]:
    """Our path -> Hugging Face's name of every linear layer in the towers' blocks."""
    return {
        stored.leaves[0].removesuffix("/kernel"): name.removesuffix(".weight")
        for name, stored in layout_for_transformers(config).items()
        if stored.kind == "linear" and "/block_" in stored.leaves[0]
    }
