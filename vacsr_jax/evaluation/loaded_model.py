"""Evaluates a loaded model on data, for `vacsr train`, `vacsr evaluate` and `vacsr classify`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.calibration import Calibration
from vacsr_jax.data.classification.source import ClassSource
from vacsr_jax.data.datasets import open_class_split
from vacsr_jax.data.source import Source
from vacsr_jax.data.tokenizer import Tokenizer
from vacsr_jax.evaluation.classification import classify, result_of
from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.evaluation.retrieval import Evaluation, evaluate, score_source
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.metrics.coco import CaptionTruth
from vacsr_jax.pair.base import PairScores

Results = dict[str, dict[str, Any]]  # name of a test set -> its `result_of`


class LoadedModel(Protocol):
    """The part of `vacsr_jax.pretrained.Pretrained` that is used here; this package must not import that module."""

    @property
    def model(self) -> ImageTextModel: ...
    @property
    def params(self) -> Any: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def calibration(self) -> Calibration | None: ...
    def preprocess(self, image: Any) -> np.ndarray: ...


def evaluate_captions(model: LoadedModel, source: Source, truth: CaptionTruth | None = None) -> Evaluation:
    """Scores all images of a source against all its captions; see `evaluate`."""
    return evaluate(
        model.model, model.params, source, *inputs_of(model, source), truth=truth, calibration=model.calibration
    )


def score_captions(model: LoadedModel, source: Source) -> tuple[PairScores, np.ndarray]:
    """The scores of all images of a source with all its captions, and their labels; see `score_source`."""
    return score_source(model.model, model.params, source, *inputs_of(model, source))


def inputs_of(model: LoadedModel, source: Source) -> tuple[Any, Any]:
    """The tokenizer and the preprocessing of a model's inputs; None for embeddings."""
    check_kind(model, source)
    return model.tokenizer, None if model.model.towers_config.takes_vectors else model.preprocess


def check_kind(model: LoadedModel, source: Source) -> None:
    """Raises ValueError for embeddings given to a model of pictures, or pictures to a model of embeddings."""
    wants, gives = model.model.towers_config.takes_vectors, hasattr(source, "text_inputs")
    if wants != gives:
        kinds = {True: "embeddings", False: "pictures and texts"}
        raise ValueError(f"the data are {kinds[gives]}, and the model compares {kinds[wants]}; give the other data")


def caption_truth(config: ConfigDict, split: str) -> CaptionTruth | None:
    """COCO's ground truth from the folder that the config names; it covers only the test split."""
    return read_caption_truth(config.data.ground_truth) if config.data.ground_truth and split == "test" else None


def distributions_as_json(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """The distributions of scores and uncertainties, as plain values."""
    return {
        name: {kind: numbers._asdict() for kind, numbers in kinds.items()}
        for name, kinds in evaluation.distributions().items()
    }


def evaluate_classes(model: LoadedModel, source: ClassSource, template: str) -> dict[str, Any]:
    """The accuracy on one test set, and what it depends on; see `result_of`."""
    if model.tokenizer is None:
        raise ValueError("the model compares embeddings, and classes are texts; give a model of pictures and texts")
    classified = classify(model.model, model.params, source, model.tokenizer, model.preprocess, template)
    return result_of(source, classified, template)


def evaluate_tests(model: LoadedModel, config: ConfigDict) -> Results:
    """The result on each of `data.tests`."""
    return {
        test: evaluate_classes(model, open_class_split(config, test), config.data.template)
        for test in config.data.tests
    }
