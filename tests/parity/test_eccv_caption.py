"""COCO, CxC and ECCV Caption metrics against the public package: stored values, and live where it is installed."""

import json

import numpy as np
import pytest

from tests.parity.make_eccv_caption_golden import GOLDEN, REAL, drawn_truth, matrix, package_scores, real_part
from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.metrics.coco import coco_metrics

TRUTHS = {"drawn": drawn_truth, "real": real_part}
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="COCO's ground truth (shared/data/retrieval) is not here")


def assert_same_digits(ours, theirs):
    assert {name: ours[name] for name in theirs} == theirs
    assert len(theirs) == 12


@pytest.mark.parametrize("name", ["drawn", pytest.param("real", marks=needs_real)])
def test_every_digit_is_the_stored_one(name):
    truth = TRUTHS[name]()
    scores, images, captions = matrix(truth)
    assert_same_digits(coco_metrics(scores, images, captions, truth), json.loads(GOLDEN.read_text())[name])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.slow
def test_every_digit_is_the_live_packages(seed):
    pytest.importorskip("eccv_caption")
    truth = drawn_truth()
    scores, images, captions = matrix(truth)
    scores = scores + np.random.default_rng(seed).normal(size=scores.shape)
    assert_same_digits(coco_metrics(scores, images, captions, truth), package_scores(truth, scores, images, captions))


@needs_real
def test_the_real_ground_truth_has_its_published_counts():
    truth = read_caption_truth(REAL)
    queries = {name: tuple(len(m) for m in getattr(truth, name)) for name in ("original", "cxc", "eccv")}
    assert queries == {"original": (5000, 25_000), "cxc": (5000, 24_972), "eccv": (1261, 1332)}
    pairs = {name: tuple(sum(map(len, m.values())) for m in getattr(truth, name)) for name in ("cxc", "eccv")}
    assert pairs == {"cxc": (35_585, 35_585), "eccv": (22_550, 11_279)}
