"""Low-rank adapters on the towers (Hu et al. 2022): x W becomes x W + alpha / r (x A) B, and only A and B learn.

The adapters of a run are a part of its parameters, "lora", with A and B at the paths of the layers that they change. B
is 0 at the start. The towers themselves do not learn, so they have neither gradients nor moments.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

LORA = "lora"  # the part of the parameters


def adapted_layers(params: Any, optim: ConfigDict) -> dict[str, tuple[int, int]]:
    """Path and shape [in, out] of every linear layer of the towers' blocks whose path ends in one of optim.lora_on.

    Raises:
      ValueError: if a pattern matches no layer.
    """
    flat = flatten_dict(params, sep="/")
    kernels = {
        path.removesuffix("/kernel"): (leaf.shape[0], leaf.shape[1])
        for path, leaf in flat.items()
        if fnmatch.fnmatch(path, "towers/*/block_*/kernel") and len(leaf.shape) == 2
    }
    found: dict[str, tuple[int, int]] = {}
    for pattern in optim.lora_on:
        matches = {path: shape for path, shape in kernels.items() if fnmatch.fnmatch(path, f"*/{pattern}")}
        if not matches:
            ends = sorted({path.partition("block_0/")[2] for path in kernels if "block_0/" in path})
            raise ValueError(f"optim.lora_on: {pattern!r} matches no layer, expected some of {', '.join(ends)}")
        found |= matches
    return found


def add_lora(params: Any, optim: ConfigDict, seed: int) -> Any:
    """`params` with adapters of rank optim.lora; as they are if it is 0. A is uniform, as in peft: +- sqrt(3 / in)."""
    if not optim.lora:
        return params
    draw, flat = np.random.default_rng(seed), {}
    for path, (width, out) in sorted(adapted_layers(params, optim).items()):
        bound = (3 / width) ** 0.5
        flat[f"{path}/a"] = draw.uniform(-bound, bound, (width, optim.lora)).astype(np.float32)
        flat[f"{path}/b"] = np.zeros((optim.lora, out), np.float32)
    return {**params, LORA: unflatten_dict(flat, sep="/")}


def lora_shapes(params: Any, optim: ConfigDict) -> Any:
    """Shapes and types of what `add_lora` adds, with the placement of the towers' leaves; for restoring."""
    flat = flatten_dict(params, sep="/")
    found = {}
    for path, (width, out) in adapted_layers(params, optim).items():
        like = flat[f"{path}/kernel"]
        for name, shape in (("a", (width, optim.lora)), ("b", (optim.lora, out))):
            found[f"{path}/{name}"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=like.sharding)
    return unflatten_dict(found, sep="/")


def scale_of(optim: ConfigDict) -> float:
    """alpha / r."""
    return optim.lora_alpha / optim.lora


def applied(params: Any, optim: ConfigDict):
    """A context in which the model's linear layers add their adapters; the identity without any.

    No product A B is formed: a layer costs two thin products more, and its gradient none of the size of W.
    """
    return _applied(flatten_dict(params[LORA], sep="/"), scale_of(optim)) if optim.lora else nullcontext()


@contextmanager
def _applied(adapters: dict[str, Any], scale: float) -> Iterator[None]:
    def add(layer, arguments, options, context):
        out = layer(*arguments, **options)
        path = "/".join(context.module.path)
        if not isinstance(context.module, nn.Dense) or f"{path}/a" not in adapters:
            return out
        x = jnp.asarray(arguments[0], out.dtype)
        a, b = (adapters[f"{path}/{name}"].astype(out.dtype) for name in ("a", "b"))
        return out + scale * ((x @ a) @ b)

    with nn.intercept_methods(add):
        yield


def merged(params: Any, optim: ConfigDict) -> Any:
    """The parameters of the model alone: W + alpha / r A B in place of W."""
    if LORA not in params:
        return params
    flat = flatten_dict({name: part for name, part in params.items() if name != LORA}, sep="/")
    adapters = flatten_dict(params[LORA], sep="/")
    for path in {path.rpartition("/")[0] for path in adapters}:
        kernel, product = flat[f"{path}/kernel"], adapters[f"{path}/a"] @ adapters[f"{path}/b"]
        flat[f"{path}/kernel"] = kernel + (scale_of(optim) * product).astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")
