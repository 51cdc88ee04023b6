"""Reads the model of a training run from its workdir."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vacsr_jax.data.tokenizer import load_tokenizer
from vacsr_jax.image_text import ImageTextModel, abstract_params, from_description
from vacsr_jax.model_files import Loaded, check_shapes
from vacsr_jax.optim.lora import LORA, lora_shapes, merged
from vacsr_jax.towers.peft import save_peft
from vacsr_jax.training.checkpoint import Checkpoints
from vacsr_jax.workdir import TOKENIZER


def read_workdir(workdir: Path, checkpoint: str) -> Loaded:
    """Reads the "best" or the "last" checkpoint of a run.

    Raises:
      ValueError: if there is none, or it is damaged or does not fit this version.
    """
    with chosen_step(workdir, checkpoint) as (checkpoints, step):
        model, params, config = restore_model(checkpoints, step)
    tokenizer = None if model.towers_config.takes_vectors else load_tokenizer(workdir / TOKENIZER)
    return Loaded(model, params, tokenizer, config, step)


@contextlib.contextmanager
def chosen_step(workdir: Path, checkpoint: str) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a run, to be read in the block, and the step of the "best" or the "last" one.

    Raises:
      ValueError: if there is none.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint: got {checkpoint!r}, expected best or last")
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.choose(checkpoint)
        if step is None:
            raise ValueError(f"{workdir}: no checkpoint is finished yet; train longer than checkpoint.every steps")
        yield checkpoints, step
    finally:
        checkpoints.close()


def export_peft(workdir: Path, folder: str | Path, checkpoint: str) -> None:
    """Writes the low-rank adapters of a run (optim.lora) in peft's files.

    Raises:
      ValueError: if the run has no adapters, did not start from a Hugging Face CLIP or SigLIP, or cannot be read.
    """
    with chosen_step(workdir, checkpoint) as (checkpoints, step):
        model, params, config = restore_parts(checkpoints, step)
    optim = config["optim"]
    if LORA not in params:
        raise ValueError(f"{workdir}: it was trained without adapters (optim.lora), so there is nothing for peft")
    flat = flatten_dict(params[LORA]["towers"], sep="/")
    paths = sorted({path.rpartition("/")[0] for path in flat})
    adapters = {path: (np.asarray(flat[f"{path}/a"]), np.asarray(flat[f"{path}/b"])) for path in paths}
    base = config["model"]["pretrained"]
    save_peft(folder, model.towers_config, adapters, alpha=optim["lora_alpha"], base=base)


def restore_model(checkpoints, step: int) -> tuple[ImageTextModel, Any, dict[str, Any]]:
    """Model, parameters and config of a step; adapters are merged into the towers. See `restore_parts`."""
    model, params, config = restore_parts(checkpoints, step)
    return model, merged(params, ConfigDict(config["optim"])), config


def restore_parts(checkpoints, step: int) -> tuple[ImageTextModel, Any, dict[str, Any]]:
    """Model, parameters as they are saved, and config of a step.

    Raises:
      ValueError: for whatever does not fit or is damaged; it names the step.
    """
    try:
        description = checkpoints.description(step)
        model = from_description(description["model"])
        like, config = abstract_params(model), description["config"]
        optim = ConfigDict(config["optim"])
        if optim.get("lora"):
            like = {**like, LORA: lora_shapes(like, optim)}
        check_shapes("saved", checkpoints.shapes(step), like)
        return model, checkpoints.restore_params(step, like), config
    except Exception as error:  # Orbax raises half a dozen types for damaged files
        raise ValueError(f"{checkpoints.folder}: step {step} cannot be loaded: {error}") from error
