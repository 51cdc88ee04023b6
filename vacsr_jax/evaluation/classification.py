"""Evaluates a model as a classifier: scores every image of a test set against one text for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vacsr_jax.data.classification.protocol import find_template, manifest_hash, prompts, to_manifest
from vacsr_jax.data.classification.source import ClassSource
from vacsr_jax.data.source import Source
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.metrics.classification import accuracy, harmonic_mean
from vacsr_jax.pair.base import PairScores
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.scoring.model import score_pairs

HM_CONVENTION = "harmonic mean of means: of the data sets' mean base and mean new accuracy"


@dataclass(frozen=True)
class Classified:
    """A classified test set.

    Attributes:
      logit: [n images, c classes].
      labels: int [n].
      texts: the c prompts.
    """

    logit: np.ndarray
    labels: np.ndarray
    texts: Sequence[str]

    @property
    def accuracy(self) -> float:
        """The share of images that are right (not a mean over classes)."""
        return accuracy(self.logit, self.labels)


def classify(
    model: ImageTextModel,
    params: Any,
    source: ClassSource,
    tokenize: Callable[[list[str]], np.ndarray] | None,
    preprocess: Callable[[np.ndarray], np.ndarray] | None,
    template: str,
) -> Classified:
    """Scores every image against the prompt of every class of the source's label space.

    Raises:
      ValueError: for a model on embeddings, which has no tokenizer.
    """
    if tokenize is None:
        raise ValueError("the model compares embeddings, and classes are texts; give a model of pictures and texts")
    texts = prompts(source.class_names, find_template(source.benchmark, template))
    scores = score_classes(model, params, source, tokenize(texts), preprocess)
    return Classified(scores.logit, source.labels, texts)


def score_classes(
    model: ImageTextModel, params: Any, source: Source, tokens: np.ndarray, preprocess: Callable | None
) -> PairScores:
    """Scores every image against the text of every class, from token ids int32 [c, l]: numpy [n, c]."""
    texts = embed_texts(model, params, tokens)
    return score_pairs(model, params, embed_images(model, params, source, preprocess), texts)


def result_of(source: ClassSource, classified: Classified, template: str) -> dict[str, Any]:
    """The accuracy and what it depends on: label space, prompt, and a hash of the list of images and labels."""
    names = source.class_names
    return {
        "dataset": source.benchmark.name,
        "accuracy": classified.accuracy,
        "images": len(source),
        "label_space": {"classes": len(names), "first": names[0], "last": names[-1]},
        "template": find_template(source.benchmark, template),
        "split_sha256": manifest_hash(to_manifest(source.items, ())),
    }


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Summarizes a run's results: the harmonic mean of base and new, and the mean over other data sets.

    The keys of `results` are names of tests, as in `data.tests`.
    """
    found: dict[str, Any] = {}
    if {"test_base", "test_new"} <= set(results):
        base, new = (results[name]["accuracy"] for name in ("test_base", "test_new"))
        found["harmonic_mean"] = harmonic_mean(base, new)
        found["hm_convention"] = f"2 b n / (b + n) of this run's two; over data sets: {HM_CONVENTION}"
    targets = [result["accuracy"] for name, result in results.items() if "/" in name]
    if targets:
        found["target_mean"] = float(np.mean(targets))
    return found
