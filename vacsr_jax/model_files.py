"""Reads a model from a folder: an export of this library, or pretrained towers in other libraries' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open

from vacsr_jax.data.tokenizer import Tokenizer, load_tokenizer
from vacsr_jax.image_text import ImageTextModel, from_description, param_shapes
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.towers import check_tokens, find_family
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.hf import OPEN_CLIP_CONFIG, find_folder, read_object
from vacsr_jax.towers.peft import SETTINGS, merge_peft
from vacsr_jax.towers.positions import at_image_size
from vacsr_jax.workdir import CHECKPOINTS, TOKENIZER

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"  # of an export


class Loaded(NamedTuple):
    """A model with its parameters and tokenizer, and the run's config and step where they are known.

    `tokenizer` is None for a model on embeddings.
    """

    model: ImageTextModel
    params: Any
    tokenizer: Tokenizer | None
    config: dict[str, Any] | None = None
    step: int | None = None

    def at_image_size(self, image_size: int) -> Loaded:
        """The model for images of another size (`towers.positions.at_image_size`); 0: as it is."""
        if not image_size:
            return self
        config, towers = at_image_size(self.model.towers_config, self.params["towers"], image_size)
        return self._replace(model=self.model.clone(towers_config=config), params={**self.params, "towers": towers})


def read_folder(folder_or_hub_name: str | Path) -> Loaded:
    """Reads an export or pretrained towers, from a folder or the hub.

    Raises:
      ValueError: if there is nothing to load, or what is there does not fit this version; the message names the
        difference.
    """
    folder = find_folder(folder_or_hub_name, None)
    if (folder / DESCRIPTION).is_file():
        description = read_object(folder / DESCRIPTION)
        return read_export(folder, description) if "vacsr_jax" in description else read_towers(folder)
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return read_towers(folder)
    if (folder / SETTINGS).is_file():
        return read_adapted(folder)
    raise ValueError(
        f"{folder} holds no {CHECKPOINTS}/ (a training run) and no {DESCRIPTION} (an export or a pretrained model)"
    )


def read_adapted(folder: Path) -> Loaded:
    """Reads low-rank adapters in peft's files, and adds them to the model that they were trained on."""
    base = read_object(folder / SETTINGS).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / SETTINGS}: base_model_name_or_path: got {base!r}, expected a folder or a hub name")
    loaded = read_folder(base)
    towers = merge_peft(folder, loaded.model.towers_config, loaded.params["towers"])
    return loaded._replace(params={**loaded.params, "towers": towers})


def read_export(folder: Path, description: dict[str, Any]) -> Loaded:
    """Reads an export of this library; see `read_folder`."""
    model = from_description(description["vacsr_jax"])
    try:
        flat = read_weights(folder / WEIGHTS)
        like = param_shapes(model)
    except Exception as error:  # a header, and a description, may say anything
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}); export it again") from error
    check_shapes(str(folder), {name: leaf.shape for name, leaf in flat.items()}, like)
    tokenizer = None
    if not model.towers_config.takes_vectors:
        tokenizer = load_tokenizer(folder / TOKENIZER)
        tokenizer.check_table(model.towers_config.text.vocab_size)
        check_tokens(tokenizer(["a"]), model.towers_config.text)
    params = unflatten_dict(flat, sep="/")
    return Loaded(model, params, tokenizer, description.get("config"), description.get("step"))


def read_weights(path: Path) -> dict[str, jax.Array]:
    """The arrays of a safetensors file, on the device; one array at a time is in memory twice.

    Those in half precision become float32.
    """
    with safe_open(path, framework="numpy") as file:
        return {name: jax.device_put(_widened(file.get_tensor(name))) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def read_towers(folder: Path) -> Loaded:
    """Pretrained towers as they are: cosine times their learned scale, and their bias, if they have one.

    With a bias (SigLIP), the sigmoid of the logit is the probability of a match. Without one, there is no probability.
    """
    family = find_family(folder)
    config, towers = family.load(folder)
    options = {"source": folder, **family.tokenizer(folder)}
    tokenizer = load_tokenizer(options.pop("source"), context_length=config.text.context_length, **options)
    tokenizer.check_table(config.text.vocab_size)
    if not family.ids:
        ids = {name: getattr(tokenizer, name) for name in ("start_id", "end_id", "pad_id")}
        config = adapt_towers(config, image_size=0, context_length=0, **ids)
    check_tokens(tokenizer(["a"]), config.text)
    has_bias = "logit_bias" in towers
    pair = {"log_scale": towers["logit_scale"], **({"bias": towers["logit_bias"]} if has_bias else {})}
    model = ImageTextModel(config, CosineModel(0.0 if has_bias else None))
    return Loaded(model, {"towers": towers, "pair": pair}, tokenizer)


def check_shapes(where: str, got: dict[str, tuple[int, ...]], like: Any) -> None:
    """Raises ValueError, listing each parameter that is missing, unknown or of another shape than in `like`."""
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten_dict(like, sep="/").items()}
    lines = [
        f"{name}: saved {got.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(got.keys() | wanted.keys())
        if got.get(name) != wanted.get(name)
    ]
    if lines:
        raise ValueError(f"{where}: the parameters do not fit the model it describes:\n  " + "\n  ".join(lines))
