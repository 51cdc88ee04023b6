"""Starts a pair model at the cosine of embeddings that were trained before, with a scale and bias that fit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.data.loader import Pairs
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.metrics.scale import fit_scale
from vacsr_jax.pair import first_logit

PAIRS = 512  # from which the scale is fitted


def start_at_cosine(config: ConfigDict, model: ImageTextModel, params: Any, pairs: Pairs) -> Any:
    """The parameters with the scale that makes a sample of training pairs likeliest, and the bias that goes with it.

    The scale is that of `fit_scale`, or `cosine.scale` if the config gives one. The bias is such that a pair of the
    mean cosine of the pairs that are not labelled has the model's first logit. A model whose items have no direction
    stays as it is.
    """
    images, texts, group = sample(model, params, pairs, config.seed)
    if images.shape[1] != texts.shape[1]:
        return params
    cosines, labels = images @ texts.T, group[:, None] == group[None, :]
    if labels.all():
        return params
    scale = config.cosine.scale or fit_scale(cosines, labels)
    bias = first_logit(config) - scale * cosines[~labels].mean()
    return {**params, "pair": model.pair.with_scale(params["pair"], np.float32(np.log(scale)), np.float32(bias))}


def sample(model: ImageTextModel, params: Any, pairs: Pairs, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of the images and texts of up to `PAIRS` training pairs, float64 [p, d], and their groups [p]."""
    index = np.random.default_rng(seed).permutation(len(pairs))[:PAIRS]
    batch = pairs.take(index)
    items = jax.jit(model.apply)({"params": params}, batch["images"], batch["tokens"])
    vectors = [np.asarray(model.pair.direction(x), np.float64) for x in jax.device_get(items)]
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors)
    return images, texts, batch["group"]
