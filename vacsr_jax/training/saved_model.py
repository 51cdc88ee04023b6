"""Reads the model of a training run from its workdir."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vacsr_jax.data.tokenizer import load_tokenizer
from vacsr_jax.image_text import ImageTextModel, abstract_params, from_description
from vacsr_jax.model_files import Loaded, check_shapes
from vacsr_jax.training.checkpoint import Checkpoints
from vacsr_jax.workdir import TOKENIZER


def read_workdir(workdir: Path, checkpoint: str) -> Loaded:
    """Reads the "best" or the "last" checkpoint of a run.

    Raises:
      ValueError: if there is none, or it is damaged or does not fit this version.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint: got {checkpoint!r}, expected best or last")
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.choose(checkpoint)
        if step is None:
            raise ValueError(f"{workdir}: no checkpoint is finished yet; train longer than checkpoint.every steps")
        model, params, config = restore_model(checkpoints, step)
    finally:
        checkpoints.close()
    tokenizer = None if model.towers_config.takes_vectors else load_tokenizer(workdir / TOKENIZER)
    return Loaded(model, params, tokenizer, config, step)


def restore_model(checkpoints, step: int) -> tuple[ImageTextModel, Any, dict[str, Any]]:
    """Model, parameters and config of a step; ValueError, naming it, for whatever does not fit or is damaged."""
    try:
        description = checkpoints.description(step)
        model = from_description(description["model"])
        like = abstract_params(model)
        check_shapes("saved", checkpoints.shapes(step), like)
        return model, checkpoints.restore_params(step, like), description["config"]
    except Exception as error:  # Orbax raises half a dozen types for damaged files
        raise ValueError(f"{checkpoints.folder}: step {step} cannot be loaded: {error}") from error
