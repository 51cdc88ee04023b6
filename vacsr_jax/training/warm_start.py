"""Starts a run on towers from an adapter that was trained on the towers' embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vacsr_jax.image_text import ImageTextModel, abstract_params, from_description
from vacsr_jax.pair import describe_pair_model
from vacsr_jax.training.checkpoint import Checkpoints, config_differences
from vacsr_jax.workdir import CHECKPOINTS


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
        if towers.takes_vectors and not towers.vision.projection == towers.text.projection == "none":
            raise ValueError(
                f"model.adapter: {workdir} projects the embeddings, which towers do not; train it with "
                "configs/embeddings.py:image=none,text=none"
            )
        differences = config_differences(describe_pair_model(trained.pair), describe_pair_model(model.pair))
        if differences:
            raise ValueError(
                f"model.adapter: {workdir} holds another pair model: {'; '.join(differences)}. Set the same fields here"
            )
        return checkpoints.restore_params(step, abstract_params(trained))["pair"]
    finally:
        checkpoints.close()
