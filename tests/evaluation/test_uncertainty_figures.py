"""Quality in bins of uncertainty, and distributions by class, for an uncertainty that predicts the errors."""

import numpy as np
import pytest

from tests.parity.make_eccv_caption_golden import drawn_truth, matrix
from vacsr_jax.evaluation import uncertainty_figures
from vacsr_jax.evaluation.uncertainty_figures import (
    correlations,
    distributions,
    eccv_curves,
    pair_classes,
    quality_curves,
)
from vacsr_jax.metrics.coco import coco_metrics, eccv_precision
from vacsr_jax.pair.base import PairScores

LABELS = np.arange(200)[:, None] == np.arange(400)[None, :] // 2


def scored():
    """Images and their captions get harder and harder, and an uncertainty that knows how hard both are."""
    hard = np.linspace(0, 4, 200)
    logit = LABELS * (3 - hard[:, None]) + 0.5 * np.random.default_rng(0).normal(size=LABELS.shape)
    return PairScores(logit, hard[:, None] + np.repeat(hard, 2)[None, :])


def test_an_uncertainty_that_knows_falls_in_both_figures():
    curves = quality_curves(scored(), LABELS, None)
    assert {measure: list(lines) for measure, lines in curves.items()} == {
        "R@1": ["i2t", "t2i"],
        "mAP@R": ["i2t", "t2i"],
    }
    found = correlations(curves)
    assert set(found) == {f"{d}/uncertainty-{measure}" for d in ("i2t", "t2i") for measure in ("R@1", "mAP@R")}
    assert all(value < -0.9 for value in found.values())


def test_map_uses_the_truth_where_it_is_known_and_r1_the_labels():
    relevance = np.where(LABELS | LABELS[::-1], 1.0, 0.3)
    by_label, by_truth = quality_curves(scored(), LABELS, None), quality_curves(scored(), LABELS, relevance)
    np.testing.assert_array_equal(by_label["R@1"]["t2i"].quality, by_truth["R@1"]["t2i"].quality)
    assert by_truth["mAP@R"]["i2t"].quality.max() < 0.6 < 0.9 < by_label["mAP@R"]["i2t"].quality.max()


def test_no_uncertainty_and_few_queries_give_no_figure():
    assert quality_curves(PairScores(scored().logit, None), LABELS, None) == {}
    few = PairScores(*(x[:4, :8] for x in scored()[:2]))
    assert quality_curves(few, LABELS[:4, :8], None) == {}


def test_eccv_queries_one_by_one_have_the_mean_of_the_metric():
    truth = drawn_truth()
    scores, images, captions = matrix(truth)
    precision = eccv_precision(scores, images, captions, truth)
    whole = coco_metrics(scores, images, captions, truth)["eccv_map_at_r"]
    assert {d: float(np.mean(found)) for d, (_, found) in precision.items()} == whole
    assert images[precision["i2t"][0]].tolist() == list(truth.eccv.i2t)
    assert captions[precision["t2i"][0]].tolist() == list(truth.eccv.t2i)
    knows = np.zeros_like(scores)
    knows[precision["i2t"][0]] = -precision["i2t"][1][:, None]  # the uncertainty of a query is minus its precision
    curve = eccv_curves(PairScores(scores, knows), precision)["ECCV Caption mAP@R"]["i2t"]
    assert curve.spearman == pytest.approx(-1)
    assert eccv_curves(PairScores(scores, None), precision) == {}


def test_distributions_are_of_the_classes_that_are_known():
    found = distributions(scored(), LABELS, None)
    assert {name: list(kinds) for name, kinds in found.items()} == {
        "score": ["labelled", "unlabelled"],
        "uncertainty": ["labelled", "unlabelled"],
    }
    assert (found["score"]["labelled"].count, found["score"]["unlabelled"].count) == (400, 400 * 199)
    assert found["score"]["labelled"].mean > 0.8 > 0.1 > found["score"]["unlabelled"].mean
    known = distributions(PairScores(scored().logit, None), LABELS, np.where(LABELS | LABELS[::-1], 1.0, 0.0))
    assert {kind: d.count for kind, d in known["score"].items()} == {
        "true matches (labelled)": 400,
        "false negatives (true, unlabelled)": 400,
        "true negatives": 400 * 198,
    }


def test_a_large_class_is_sampled(monkeypatch):
    monkeypatch.setattr(uncertainty_figures, "SAMPLE", 1000)
    values = pair_classes(scored().logit, LABELS, None)
    assert {name: len(x) for name, x in values.items()} == {"labelled": 400, "unlabelled": 1000}
