"""Starts a run on towers from an adapter that was trained on the towers' embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from vacsr_jax.image_text import ImageTextModel, abstract_params, from_description, param_shapes
from vacsr_jax.pair import describe_pair_model
from vacsr_jax.towers.embeddings import EmbeddingsConfig
from vacsr_jax.training.checkpoint import Checkpoints, config_differences
from vacsr_jax.workdir import CHECKPOINTS

START = ("initial_logit", "scale")  # fields that only set where a pair model starts


def without_start(description: dict[str, Any]) -> dict[str, Any]:
    """A pair model's description without the fields that training leaves behind."""
    return {
        name: without_start(x) if isinstance(x, dict) else x for name, x in description.items() if name not in START
    }


def adapter_params(workdir: Path, model: ImageTextModel) -> Any:
    """The pair model's parameters of the best checkpoint in `workdir`, a run of `configs/embeddings.py`.

    Raises:
      ValueError: if there is no such run, its embeddings were projected (towers have no place for that), or its pair
        model is another one; the message names the fields.
    """
    if not (workdir / CHECKPOINTS).is_dir():
        raise ValueError(f"model.adapter: {workdir} holds no {CHECKPOINTS}/; expected the workdir of a run")
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.choose("best")
        if step is None:
            raise ValueError(f"model.adapter: {workdir} has no finished checkpoint")
        trained = from_description(checkpoints.description(step)["model"])
        towers = trained.towers_config
        if isinstance(towers, EmbeddingsConfig) and {towers.vision.projection, towers.text.projection} != {"none"}:
            raise ValueError(
                f"model.adapter: {workdir} projects the embeddings, which towers do not; train it with "
                "configs/embeddings.py:image=none,text=none"
            )
        saved, given = (without_start(describe_pair_model(x.pair)) for x in (trained, model))
        differences = config_differences(saved, given)
        if differences:
            raise ValueError(
                f"model.adapter: {workdir} holds another pair model: {'; '.join(differences)}. Set the same fields here"
            )
        shapes = [jax.tree.map(lambda x: x.shape, param_shapes(x)["pair"]) for x in (trained, model)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"model.adapter: {workdir} has pair parameters {shapes[0]}, expected {shapes[1]}")
        return checkpoints.restore_params(step, abstract_params(trained))["pair"]
    finally:
        checkpoints.close()
