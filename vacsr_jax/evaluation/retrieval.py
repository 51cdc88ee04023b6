"""Evaluates a model on a test set: scores every pair, and computes every metric against labels and known truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from vacsr_jax.calibration import Calibration
from vacsr_jax.data.source import Source, text_inputs
from vacsr_jax.evaluation.coco import flat_metrics
from vacsr_jax.evaluation.uncertainty_figures import (
    Curves,
    correlations,
    distributions,
    eccv_curves,
    quality_curves,
)
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.metrics import calibration, graded, retrieval, uncertainty
from vacsr_jax.metrics.coco import CaptionTruth, check_ids, coco_metrics, eccv_precision
from vacsr_jax.metrics.uncertainty import Distribution
from vacsr_jax.pair.base import PairScores
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.scoring.model import probabilities, score_pairs


@dataclass(frozen=True)
class Evaluation:
    """A scored test set and its metrics.

    Attributes:
      scores: logits (and uncertainties, or None), numpy [n images, m captions].
      probability: sigmoid of the logits, or None if that is not a probability.
      labels: bool [n, m], the captions that were written for an image.
      relevance: float [n, m] in [0, 1] if the truth is known, else None; 1 is a true match.
      metrics: name -> number; see `all_metrics`.
      curves: quality in bins of queries of growing uncertainty; empty without an uncertainty.
    """

    scores: PairScores
    probability: np.ndarray | None
    labels: np.ndarray
    relevance: np.ndarray | None
    metrics: dict[str, float]
    curves: Curves

    def distributions(self) -> dict[str, dict[str, Distribution]]:
        """Statistics of the scores and uncertainties in each class of pairs."""
        return distributions(self.scores, self.labels, self.relevance)


def evaluate(
    model: ImageTextModel,
    params,
    source: Source,
    tokenize: Callable[[list[str]], np.ndarray] | None,
    preprocess: Callable[[np.ndarray], np.ndarray] | None,
    truth: CaptionTruth | None = None,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Scores all images of a source against all its captions and computes every metric; see `all_metrics`.

    A `calibration` gives the probability in place of the model. With COCO's `truth` it also computes `coco_metrics`;
    ValueError if the source's ids are not those of the truth.
    """
    scores, labels = score_source(model, params, source, tokenize, preprocess)
    relevance = source.relevance() if hasattr(source, "relevance") else None
    probability = probabilities(model, scores) if calibration is None else calibration.probability(scores.logit)
    metrics = all_metrics(scores, probability, labels, relevance)
    curves = quality_curves(scores, labels, relevance)
    if truth is not None:
        ids = caption_ids(source)
        metrics |= flat_metrics(coco_metrics(scores.by_label(), *ids, truth))
        if scores.match_score is not None:
            by_match = flat_metrics(coco_metrics(scores.match_score, *ids, truth))
            metrics |= {f"by match/{name}": value for name, value in by_match.items()}
        curves |= eccv_curves(scores, eccv_precision(scores.by_match(), *ids, truth))
    return Evaluation(scores, probability, labels, relevance, metrics | correlations(curves), curves)


def caption_ids(source: Source) -> tuple[list[int], list[int]]:
    """COCO's ids of a source's images and captions; ValueError if the source has none."""
    if not hasattr(source, "caption_ids"):
        raise ValueError(
            "data.ground_truth: it is for COCO's captions, but these data have no caption ids; leave it empty"
        )
    return [int(i) for i in source.ids], [i for ids in source.caption_ids for i in ids]


def check_truth(source: Source, truth: CaptionTruth) -> None:
    """Raises ValueError if a source's images and captions are not those of COCO's ground truth."""
    images, captions = caption_ids(source)
    check_ids(images, captions, truth)


def score_source(
    model, params, source: Source, tokenize: Callable | None, preprocess: Callable | None
) -> tuple[PairScores, np.ndarray]:
    """Scores all images of a source against all its captions; returns scores and bool labels [n images, m captions]."""
    texts, image_index = text_inputs(source, tokenize)
    images = embed_images(model, params, source, preprocess)
    scores = score_pairs(model, params, images, embed_texts(model, params, texts))
    return scores, np.arange(len(source))[:, None] == image_index[None, :]


def all_metrics(
    scores: PairScores, probability: np.ndarray | None, labels: np.ndarray, relevance: np.ndarray | None
) -> dict[str, float]:
    """Computes every number of a test set.

    Against the labels, by label score: R@K, R-Precision and mAP@R per direction, rsum, and the ECE of the label's
    probability if the model gives one. If the truth is known, under "true/", by match score: the same ranking metrics
    with every true match as a positive; nDCG and Spearman against graded relevance; the AUROC of score and uncertainty
    for unlabelled matches against true negatives, among each caption's 20 best pairs and among all pairs; and the ECE
    of the match probability against the truth.
    """
    result = retrieval.retrieval_metrics(scores.by_label(), labels)
    if probability is not None:
        labelled = probability if scores.label_score is None else expit(scores.label_score)
        result["ECE"] = calibration.expected_calibration_error(labelled, labels)
    if relevance is None:
        return result
    matches, logit = relevance == 1, scores.by_match()
    result |= {f"true/{name}": value for name, value in retrieval.retrieval_metrics(logit, matches).items()}
    result["true/nDCG"] = (graded.ndcg(logit, relevance) + graded.ndcg(logit.T, relevance.T)) / 2
    result["true/Spearman"] = (graded.spearman(logit, relevance) + graded.spearman(logit.T, relevance.T)) / 2
    if probability is not None:
        result["true/ECE"] = calibration.expected_calibration_error(probability, matches)
    result["true/false-negative share"] = float(matches[~labels].mean())
    for name, values in {"score": logit, "uncertainty": scores.uncertainty}.items():
        if values is not None:
            found = uncertainty.false_negative_auroc(values, logit, labels, matches)
            result |= {f"true/AUROC {name} {key}": value for key, value in found.items()}
    return result
