"""Converts a file's tensors to parameters and back by a layout, and checks both leaf by leaf."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.towers.clip import CLIP, CLIPConfig
from vacsr_jax.towers.hf import INDEX, WEIGHTS, read_tensors

FLOATS = (np.float32, np.float16, jnp.bfloat16)


class Stored(NamedTuple):
    """How a tensor of a file holds our leaves.

    Attributes:
      leaves: the paths of the leaves; several are stacked along the tensor's first axis (query, key and value in one).
      kind: how each leaf is laid out. "same": as ours; "linear": transposed; "patch": the kernel of a convolution;
        "boxed": with one more axis of length 1 in front; "probe": with two.
    """

    leaves: tuple[str, ...]
    kind: str


Layout = dict[str, Stored]  # by the tensor's name


def one(leaf: str, kind: str = "same") -> Stored:
    """The layout of a tensor that holds one leaf."""
    return Stored((leaf,), kind)


def norm_names(theirs: str, ours: str) -> Layout:
    """The two tensors of a layer norm."""
    return {f"{theirs}.weight": one(f"{ours}/scale"), f"{theirs}.bias": one(f"{ours}/bias")}


def linear_names(theirs: str, *ours: str) -> Layout:
    """The two tensors of a linear layer, or of several that are stacked."""
    weight, bias = (tuple(f"{leaf}/{part}" for leaf in ours) for part in ("kernel", "bias"))
    return {f"{theirs}.weight": Stored(weight, "linear"), f"{theirs}.bias": Stored(bias, "same")}


def attention_leaves(ours: str) -> tuple[str, ...]:
    """The three linear layers that torch's MultiheadAttention stacks."""
    return tuple(f"{ours}/attention/{name}" for name in ("query", "key", "value"))


def packed_attention_names(theirs: str, ours: str) -> Layout:
    """The four tensors of torch's MultiheadAttention."""
    weight, bias = (tuple(f"{leaf}/{part}" for leaf in attention_leaves(ours)) for part in ("kernel", "bias"))
    packed = {f"{theirs}.in_proj_weight": Stored(weight, "linear"), f"{theirs}.in_proj_bias": Stored(bias, "same")}
    return packed | linear_names(f"{theirs}.out_proj", f"{ours}/attention/out")


def fill(
    config: CLIPConfig,
    layout: Layout,
    tensors: Mapping[str, np.ndarray],
    is_buffer: Callable[[str, np.ndarray, CLIPConfig], bool],
    where: Any,
) -> dict[str, Any]:
    """Returns float32 `params` from a file's tensors. `is_buffer` tells which further tensors hold nothing learned.

    Raises:
      ValueError: if a tensor is missing, misshapen or unused; the message lists all of them.
    """
    leaves, patch = leaf_shapes(config), config.vision.patch_size
    flat, problems = {}, []
    for name, stored in layout.items():
        shapes = [stored_shape(leaves[leaf], stored.kind, patch) for leaf in stored.leaves]
        expected = shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if name not in tensors:
            problems.append(f"unfilled leaf: {', '.join(stored.leaves)} (no tensor {name})")
        elif tensors[name].shape != expected or tensors[name].dtype not in FLOATS:
            got = f"{tensors[name].dtype} {list(tensors[name].shape)}"
            problems.append(f"mismatch: {name} is {got}, expected float {list(expected)}")
        else:
            parts = [tensors[name]] if len(shapes) == 1 else np.split(tensors[name], len(shapes))
            for leaf, part in zip(stored.leaves, parts, strict=True):
                flat[leaf] = np.array(from_stored(part, stored.kind), dtype=np.float32, order="C")
    problems += [
        f"unused tensor: {name}"
        for name, tensor in tensors.items()
        if name not in layout and not is_buffer(name, tensor, config)
    ]
    if problems:
        raise ValueError(f"{where}: the weights do not fit the config:\n  " + "\n  ".join(problems))
    return unflatten_dict(flat, sep="/")


def to_tensors(config: CLIPConfig, layout: Layout, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts `params` to a file's float32 tensors; raises ValueError if they do not fit the config."""
    leaves, patch = leaf_shapes(config), config.vision.patch_size
    flat = {leaf: np.asarray(x, np.float32) for leaf, x in flatten_dict(dict(params), sep="/").items()}
    got = {leaf: x.shape for leaf, x in flat.items()}
    bad = sorted(leaf for leaf in {*got, *leaves} if got.get(leaf) != leaves.get(leaf))
    if bad:
        raise ValueError(f"params: these leaves do not fit the config: {', '.join(bad)}")

    def tensor(stored: Stored) -> np.ndarray:
        parts = [to_stored(flat[leaf], stored.kind, patch) for leaf in stored.leaves]
        return np.array(parts[0] if len(parts) == 1 else np.concatenate(parts), order="C")

    return {name: tensor(stored) for name, stored in layout.items()}


def leaf_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its path; nothing is allocated."""
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), images, tokens)["params"]
    return {leaf: tuple(x.shape) for leaf, x in flatten_dict(shapes, sep="/").items()}


def from_stored(tensor: np.ndarray, kind: str) -> np.ndarray:
    """One leaf as ours, from its part of a tensor."""
    if kind == "patch":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    if kind in ("boxed", "probe"):
        return tensor.reshape(tensor.shape[1 if kind == "boxed" else 2 :])
    return tensor.T if kind == "linear" else tensor


def to_stored(leaf: np.ndarray, kind: str, patch: int) -> np.ndarray:
    """The inverse of `from_stored`."""
    if kind == "patch":
        return leaf.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    if kind in ("boxed", "probe"):
        return leaf.reshape(stored_shape(leaf.shape, kind, patch))
    return leaf.T if kind == "linear" else leaf


def stored_shape(shape: tuple[int, ...], kind: str, patch: int) -> tuple[int, ...]:
    """The shape that a leaf of `shape` has in the file."""
    if kind == "patch":
        return (shape[-1], 3, patch, patch)
    if kind in ("boxed", "probe"):
        return (*((1,) * (1 if kind == "boxed" else 2)), *shape)
    return shape[::-1] if kind == "linear" else shape


def save_folder(
    folder: str | Path,
    tensors: dict[str, np.ndarray],
    files: Mapping[str, bytes],
    *,
    like: Path | None = None,
    weights: str = WEIGHTS,
) -> None:
    """Writes tensors and files; each is written whole or not at all.

    With `like`, the folder that they were loaded from, every tensor gets the dtype it has there, buffers are kept, and
    the other json, txt and model files are copied in place of `files`, so that an unchanged model comes back byte by
    byte.
    """
    metadata = {"format": "pt"}
    if like is not None:
        stored, metadata = read_tensors(like, weights)
        tensors = {name: tensors[name].astype(x.dtype) if name in tensors else x for name, x in stored.items()}
        others = [p for p in like.iterdir() if p.suffix in (".json", ".txt", ".model") and p.name != INDEX]
        files = {p.name: p.read_bytes() for p in others}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_whole(folder / weights, lambda path: save_file(tensors, path, metadata or None))
    for name, content in files.items():
        replace_whole(folder / name, functools.partial(Path.write_bytes, data=content))
