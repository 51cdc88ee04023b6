"""What a run starts from: `model.pretrained`, pretrained towers or a model of this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.model_files import Loaded, read_folder
from vacsr_jax.training.saved_model import read_workdir
from vacsr_jax.workdir import CHECKPOINTS

PARTS = ("towers", "all")  # of the model that `model.pretrained` names


def read_start(config: ConfigDict) -> Loaded | None:
    """What `model.pretrained` names: pretrained towers, an export, or another run; None: start from scratch."""
    if config.model.parts not in PARTS:
        raise ValueError(f"model.parts: got {config.model.parts!r}, expected one of {', '.join(PARTS)}")
    if not config.model.pretrained:
        return None
    name = config.model.pretrained
    found = read_workdir(Path(name), "best") if (Path(name) / CHECKPOINTS).is_dir() else read_folder(name)
    if found.tokenizer is None:
        raise ValueError(f"model.pretrained: {name} is a model on embeddings, without towers; see model.adapter")
    return found.at_image_size(config.model.image_size)


def as_cosine(config: ConfigDict, start: Loaded) -> ConfigDict:
    """The config for building a model on these towers: an adapter on towers with a bias (SigLIP) is residual.

    Such an adapter's logit starts as the towers' own, scale cos + bias, unless the embeddings are raw or pooled by GPO.
    """
    adapter, pooling = config.adapter, config.model.pooling
    if "logit_bias" not in start.params["towers"] or adapter.embeddings != "unit" or pooling != "clip":
        return config
    config = config.copy_and_resolve_references()
    config.adapter.residual = True
    return config.lock()


def warm_start(config: ConfigDict, model: ImageTextModel, params: Any, start: Loaded) -> Any:
    """`params` with the pretrained ones in their place: the towers', or all of them (`model.parts`).

    With the towers alone, the pair model starts from the scale (and the bias, if there is one) that they were trained
    with, unless the config gives a scale.

    Raises:
      ValueError: if all parts are asked for and the two models differ; the message names the first differences.
    """
    if config.model.parts == "all":
        given = {path: np.shape(leaf) for path, leaf in flatten_dict(start.params, sep="/").items()}
        wanted = {path: np.shape(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
        differ = [path for path in sorted(given.keys() | wanted.keys()) if given.get(path) != wanted.get(path)]
        names = [type(x.pair).__name__ for x in (start.model, model)]
        if differ or names[0] != names[1]:
            raise ValueError(
                f"model.parts: got all, but {config.model.pretrained} holds a {names[0]} and this run trains a "
                f"{names[1]} (they differ in {', '.join(differ[:3]) or 'the class'}); set model.parts=towers, or train "
                "that method"
            )
        return start.params
    towers = start.params["towers"]
    params = {**params, "towers": keep_known(towers, params["towers"])}
    if config.cosine.scale:  # a scale in the config overrides the pretrained one
        return params
    bias = (towers["logit_bias"],) if "logit_bias" in towers else ()
    return {**params, "pair": model.pair.with_scale(params["pair"], towers["logit_scale"], *bias)}


def keep_known(towers: dict, like: dict) -> dict:
    """Drops pretrained weights that the model does not use (the towers' own projections, if GPO replaces them)."""
    flat, wanted = flatten_dict(towers), flatten_dict(like)
    missing = sorted("/".join(path) for path in wanted if path not in flat)
    if missing:
        raise ValueError(f"model.pretrained: it has no {', '.join(missing)[:200]}, which this model needs")
    return unflatten_dict({path: flat[path] for path in wanted})
