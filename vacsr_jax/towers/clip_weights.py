"""Reads and writes CLIP weights in Hugging Face's files (safetensors, no torch), and checks them leaf by leaf."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.towers.clip import CLIP, CLIPConfig
from vacsr_jax.towers.clip_hf_config import (
    PREPROCESSOR,
    check_expressible,
    read_hf_config,
    write_hf_config,
    write_preprocessor,
)
from vacsr_jax.towers.hf import INDEX, WEIGHTS, find_folder, read_tensors

FLOATS = (np.float32, np.float16, jnp.bfloat16)

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

    Reads config.json, the image processor's pixel statistics, and one or many safetensors files, stored as
    float32, float16 or bfloat16. If the name is not a folder, it is fetched from the hub, at `revision`.

    Raises:
      ValueError: if the folder is incomplete or unreachable, does not hold a CLIP, or if any tensor is unused, missing
        or of another shape than the config says; the message lists all of them.
    """
    folder = find_folder(folder_or_hub_name, revision)
    config = read_hf_config(folder)
    params, problems = fill(config, read_tensors(folder)[0])
    if problems:
        raise ValueError(f"{folder}: the weights do not fit the config:\n  " + "\n  ".join(problems))
    return config, params


def fill(config: CLIPConfig, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], list[str]]:
    """Returns `params` from Hugging Face's tensors, and a line for each missing, misshapen or unused tensor."""
    names, leaves = layout(config), leaf_shapes(config)
    flat, problems = {}, []
    for name, (leaf, kind) in names.items():
        expected = hf_shape(leaves[leaf], kind, config)
        if name not in tensors:
            problems.append(f"unfilled leaf: {leaf} (no tensor {name})")
        elif tensors[name].shape != expected or tensors[name].dtype not in FLOATS:
            got = f"{tensors[name].dtype} {list(tensors[name].shape)}"
            problems.append(f"mismatch: {name} is {got}, expected float {list(expected)}")
        else:
            flat[leaf] = np.array(from_hf(tensors[name], kind), dtype=np.float32, order="C")
    problems += [
        f"unused tensor: {name}"
        for name, tensor in tensors.items()
        if name not in names and not is_position_ids(name, tensor, config)
    ]
    return unflatten_dict(flat, sep="/"), problems


def save_hf_clip(
    folder: str | Path, config: CLIPConfig, params: Mapping[str, Any], *, like: str | Path | None = None
) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors in Hugging Face's layout.

    `like` is the folder that `params` were loaded from. With it, every tensor gets the dtype it has there, position_ids
    buffers are kept, and the other json and txt files (config, tokenizer) are copied, so that an unchanged model
    comes back byte by byte. Without it, tensors are float32. Each file is written whole or not at all.

    Raises:
      ValueError: if Hugging Face's CLIP cannot express `config`, or `params` or `like` do not fit it.
    """
    check_expressible(config)
    tensors, metadata = to_tensors(config, params), {"format": "pt"}
    if like is None:
        files = {"config.json": write_hf_config(config), PREPROCESSOR: write_preprocessor(config)}
    else:
        source = find_folder(like, None)
        if read_hf_config(source) != config:
            raise ValueError(f"like: {source} has a different config from the one to save; leave `like` out")
        stored, metadata = read_tensors(source)
        tensors = {name: tensors[name].astype(x.dtype) if name in tensors else x for name, x in stored.items()}
        others = [p for p in source.iterdir() if p.suffix in (".json", ".txt") and p.name != INDEX]
        files = {p.name: p.read_bytes() for p in others}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_whole(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata))
    for name, content in files.items():
        replace_whole(folder / name, functools.partial(Path.write_bytes, data=content))


def to_tensors(config: CLIPConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts `params` to Hugging Face's float32 tensors; raises ValueError if they do not fit the config."""
    leaves = leaf_shapes(config)
    flat = {leaf: np.asarray(x, np.float32) for leaf, x in flatten_dict(dict(params), sep="/").items()}
    got = {leaf: x.shape for leaf, x in flat.items()}
    bad = sorted(leaf for leaf in {*got, *leaves} if got.get(leaf) != leaves.get(leaf))
    if bad:
        raise ValueError(f"params: these leaves do not fit the config: {', '.join(bad)}")
    return {name: np.array(to_hf(flat[leaf], kind, config), order="C") for name, (leaf, kind) in layout(config).items()}


def leaf_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its path; nothing is allocated."""
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), images, tokens)["params"]
    return {leaf: tuple(x.shape) for leaf, x in flatten_dict(shapes, sep="/").items()}


def layout(config: CLIPConfig) -> dict[str, tuple[str, str]]:
    """Hugging Face's tensor name -> (path of our leaf, kind); the kind says how the values are laid out."""
    names = {
        "logit_scale": ("logit_scale", "same"),
        "visual_projection.weight": ("vision_projection/kernel", "linear"),
        "text_projection.weight": ("text_projection/kernel", "linear"),
        "vision_model.embeddings.class_embedding": ("vision/class_embedding", "same"),
        "vision_model.embeddings.patch_embedding.weight": ("vision/patch_embedding/kernel", "patch"),
        "vision_model.embeddings.position_embedding.weight": ("vision/position_embedding", "same"),
        "text_model.embeddings.token_embedding.weight": ("text/token_embedding", "same"),
        "text_model.embeddings.position_embedding.weight": ("text/position_embedding", "same"),
        **norm_names("vision_model.pre_layrnorm", "vision/pre_norm"),  # spelt like this in every checkpoint
        **norm_names("vision_model.post_layernorm", "vision/post_norm"),
        **norm_names("text_model.final_layer_norm", "text/final_norm"),
    }
    for tower, layers in (("vision", config.vision.layers), ("text", config.text.layers)):
        for i in range(layers):
            hf, ours = f"{tower}_model.encoder.layers.{i}", f"{tower}/transformer/block_{i}"
            names |= norm_names(f"{hf}.layer_norm1", f"{ours}/norm_1")
            names |= norm_names(f"{hf}.layer_norm2", f"{ours}/norm_2")
            for a, b in BLOCK_LINEAR.items():
                names[f"{hf}.{a}.weight"] = (f"{ours}/{b}/kernel", "linear")
                names[f"{hf}.{a}.bias"] = (f"{ours}/{b}/bias", "same")
    return names


def norm_names(hf: str, ours: str) -> dict[str, tuple[str, str]]:
    """The names of the two leaves of a layer norm."""
    return {f"{hf}.weight": (f"{ours}/scale", "same"), f"{hf}.bias": (f"{ours}/bias", "same")}


def from_hf(tensor: np.ndarray, kind: str) -> np.ndarray:
    """Converts a stored tensor to our layout: a convolution kernel [w, 3, p, p] becomes a matmul's [p p 3, w]."""
    if kind == "patch":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor.T if kind == "linear" else tensor


def to_hf(leaf: np.ndarray, kind: str, config: CLIPConfig) -> np.ndarray:
    """The inverse of `from_hf`."""
    if kind == "patch":
        patch = config.vision.patch_size
        return leaf.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    return leaf.T if kind == "linear" else leaf


def hf_shape(shape: tuple[int, ...], kind: str, config: CLIPConfig) -> tuple[int, ...]:
    """The shape that a tensor must have in the file to fill a leaf of `shape`."""
    patch = config.vision.patch_size
    return (shape[-1], 3, patch, patch) if kind == "patch" else shape[::-1] if kind == "linear" else shape


def is_position_ids(name: str, tensor: np.ndarray, config: CLIPConfig) -> bool:
    """Whether a tensor is the position buffer of old checkpoints: 0, 1, 2, ... up to the tower's length."""
    lengths = {
        "vision_model.embeddings.position_ids": config.vision.tokens,
        "text_model.embeddings.position_ids": config.text.context_length,
    }
    return name in lengths and np.array_equal(tensor.reshape(-1), np.arange(lengths[name]))
