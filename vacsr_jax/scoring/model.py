"""A model's parameters turned into scores of pairs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.base import Item, PairScores, Scorer
from vacsr_jax.scoring.pairs import score_all


def score_pairs(model: ImageTextModel, params, images: Item, texts: Item) -> PairScores:
    """Scores of all pairs of n images and m texts, as numpy [n m]; see `scoring.pairs`."""
    return score_all(prepare_scorer(model, params), images, texts)


def prepare_scorer(model: ImageTextModel, params) -> Scorer:
    """What `scoring.pairs` needs of a model, in the precision that the model computes in."""
    return _scorer(params, model).in_precision(model.dtype)


def probabilities(model: ImageTextModel, scores: PairScores) -> np.ndarray | None:
    """sigmoid(logit), or None where that is no probability; see `PairModel.meaning`."""
    return sigmoid(scores.logit) if model.pair.meaning.probability else None


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in the type of x, to its last digits at both ends; scipy has it, but takes long to import."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


@functools.partial(jax.jit, static_argnames="model")
def _scorer(params, model: ImageTextModel) -> Scorer:
    scorer: Any = model.apply({"params": params}, method="scorer")
    return scorer
