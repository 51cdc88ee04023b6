"""A model as three functions of plain arrays, which is what compilers of other systems take.

`image` turns pictures into the arrays of their items, `text` token ids, and `score` the arrays of both into scores of
all pairs. Parameters are constants of the functions. The numbers n of pictures and m of texts are free.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.pretrained import Pretrained

DESCRIPTION = "functions.json"  # of an exported folder
TOLERANCE = 1e-3  # of an exported function's result, relative to the largest number of the model's own

Call = Callable[..., Sequence[Any]]  # arrays -> arrays


class Array(NamedTuple):
    """An input or output; a free dimension is a letter."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def abstract(self, sizes: dict[str, Any]) -> jax.ShapeDtypeStruct:
        """The array's shape and type, with these sizes of the free dimensions."""
        return jax.ShapeDtypeStruct(tuple(sizes.get(str(d), d) for d in self.shape), np.dtype(self.dtype))


@dataclass(frozen=True)
class Function:
    """A function of plain arrays."""

    name: str
    call: Call
    inputs: list[Array]
    outputs: list[Array]

    def describe(self) -> dict[str, Any]:
        """Inputs and outputs as plain values."""
        return {"inputs": [x._asdict() for x in self.inputs], "outputs": [x._asdict() for x in self.outputs]}


def functions_of(model: Pretrained) -> list[Function]:
    """The functions `image`, `text` and `score` of a model."""
    vision, text = model.model.towers_config.vision, model.model.towers_config.text
    pictures = Array("images", ("n", vision.image_size, vision.image_size, 3), "uint8")
    tokens = Array("tokens", ("m", text.context_length), "int32")
    image, image_tree = _encoder(model, "image", pictures)
    texts, text_tree = _encoder(model, "text", tokens)
    return [image, texts, _scorer(model, image, image_tree, texts, text_tree)]


def _encoder(model: Pretrained, side: str, given: Array) -> tuple[Function, Any]:
    """The function of one tower, and the structure of the items that it gives."""

    def encode(x):
        return model.model.apply({"params": model.params}, x, method=f"encode_{side}")

    letter = str(given.shape[0])
    items = jax.eval_shape(encode, given.abstract({letter: 2}))
    leaves, tree = jax.tree.flatten_with_path(items)
    outputs = [Array(_name(side, path), (letter, *leaf.shape[1:]), leaf.dtype.name) for path, leaf in leaves]
    return Function(side, lambda x: tuple(jax.tree.leaves(encode(x))), [given], outputs), tree


def _name(side: str, path: Any) -> str:
    """The name of an array of an item, such as image_embedding; an item of one array is `image` or `text`."""
    return "_".join([side, *filter(None, [jax.tree_util.keystr(path, simple=True, separator="_")])])


def _scorer(model: Pretrained, image: Function, image_tree: Any, text: Function, text_tree: Any) -> Function:
    probable = model.meaning.probability is not None

    def score(*arrays):
        n = len(image.outputs)
        images, texts = jax.tree.unflatten(image_tree, arrays[:n]), jax.tree.unflatten(text_tree, arrays[n:])
        scorer: Any = model.model.apply({"params": model.params}, method="scorer")
        found = scorer.score_tile(images, texts)._asdict()
        if probable:
            found["probability"] = jax.nn.sigmoid(found["logit"])
        return {name: jnp.asarray(x, jnp.float32) for name, x in found.items() if x is not None}

    inputs = [*image.outputs, *text.outputs]
    sizes = {"n": 2, "m": 2}
    names = list(jax.eval_shape(score, *(x.abstract(sizes) for x in inputs)))
    outputs = [Array(name, ("n", "m"), "float32") for name in names]
    return Function("score", lambda *arrays: tuple(score(*arrays)[name] for name in names), inputs, outputs)


def describe(model: Pretrained, functions: Sequence[Function], form: str, suffix: str) -> dict[str, Any]:
    """What a reader of the exported files must know."""
    vision, text = model.model.towers_config.vision, model.model.towers_config.text
    return {
        "format": form,
        "functions": {f.name: {"file": f"{f.name}{suffix}", **f.describe()} for f in functions},
        "images": {"size": vision.image_size, "resize": vision.resize, "values": "RGB bytes, 0 to 255"},
        "texts": {"context_length": text.context_length, "pad_id": text.pad_id, "tokenizer": "tokenizer"},
        "meaning": model.meaning._asdict(),
        "model_id": model.fingerprint(),
    }


def largest_difference(model: Pretrained, functions: Sequence[Function], exported: Sequence[Call]) -> float:
    """How far exported functions are from the model's on random pictures, relative to its largest number.

    Raises:
      ValueError: if that is more than TOLERANCE.
    """
    rng, vision = np.random.default_rng(0), model.model.towers_config.vision
    images = rng.integers(0, 256, (3, vision.image_size, vision.image_size, 3)).astype(np.uint8)
    image, text, score = (jax.jit(f.call) for f in functions)
    tokens = model.tokenizer(["a", "a picture"])
    items = (*image(images), *text(tokens))
    worst = 0.0
    arguments: list[Sequence[Any]] = [(images,), (tokens,), items]
    for function, call, ours, given in zip(functions, exported, (image, text, score), arguments, strict=True):
        found = call(*map(np.asarray, given))
        for array, a, b in zip(function.outputs, map(np.asarray, ours(*given)), found, strict=True):
            difference = float(np.abs(a - np.asarray(b)).max() / max(np.abs(a).max(), 1))
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{function.name}: {array.name} is off by {difference:.2g} of its size, more than {TOLERANCE}; "
                    "nothing was written"
                )
            worst = max(worst, difference)
    return worst


def write_files(folder: Path, write: Callable[[Path], Any]) -> Any:
    """Calls `write` on a temporary folder, then moves its files into `folder`; a failure leaves `folder` as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        result = write(Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, folder / file.name)
    return result
