"""Retrieval metrics against tables made by hand and a naive reference."""

import doctest
import itertools
import time

import numpy as np
import pytest

from vacsr_jax.metrics import calibration, graded, retrieval, uncertainty
from vacsr_jax.metrics.retrieval import chance, map_at_r, rank_positives, recall_at_k, retrieval_metrics

# One query each: scores, positives, then by hand the ranks of the positives, R-Precision, mAP@R.
TABLE = [
    ([9, 8, 7, 6, 5], [1, 0, 0, 0, 0], [1], 1, 1),
    ([9, 8, 7, 6, 5], [0, 0, 1, 0, 0], [3], 0, 0),
    ([9, 8, 7, 6, 5], [1, 0, 1, 0, 1], [1, 3, 5], 2 / 3, (1 / 1 + 2 / 3) / 3),
    ([9, 8, 7, 6, 5], [0, 1, 1, 0, 0], [2, 3], 1 / 2, (1 / 2) / 2),
    ([1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [5], 0, 0),  # constant: the positive is last
    ([1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [3, 4, 5], 1 / 3, (1 / 3) / 3),  # both negatives come first
    ([9, 7, 7, 7, 5], [0, 1, 0, 1, 0], [3, 4], 0, 0),  # one tied negative goes first
    ([9, 8, 7, 6, 5], [1, 1, 1, 1, 1], [1, 2, 3, 4, 5], 1, 1),
    ([-np.inf, 0, -np.inf, 1, np.inf], [1, 0, 0, 0, 1], [1, 5], 1 / 2, (1 / 1) / 2),
]


def r_precision(scores, positives):
    return retrieval_metrics(scores, positives)["i2t/R-Precision"]


@pytest.mark.parametrize(("scores", "positives", "ranks", "r_prec", "map_r"), TABLE)
def test_one_query_by_hand(scores, positives, ranks, r_prec, map_r):
    scores, positives = np.array([scores], float), np.array([positives], bool)
    assert rank_positives(scores, positives).rank.tolist() == ranks
    assert r_precision(scores, positives) == pytest.approx(r_prec)
    assert map_at_r(scores, positives) == pytest.approx(map_r)
    expected = {k: float(ranks[0] <= k) for k in (1, 2, 3, 5, 9)}
    assert recall_at_k(scores, positives, (1, 2, 3, 5, 9)) == expected


def test_the_mean_is_over_the_queries_that_have_a_positive():
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    positives = np.array([[True, False], [False, False], [False, True]])
    assert recall_at_k(scores, positives, [1, 2]) == {1: 0.5, 2: 1.0}
    assert map_at_r(scores, positives) == r_precision(scores, positives) == 0.5


def naive_ranking(scores, positives):
    """Yield each query's relevance list, sorted with Python's own sort: score down, negatives first."""
    for row, labels in zip(scores.tolist(), positives.tolist(), strict=True):
        if any(labels):
            yield [label for _, label in sorted(zip([-s for s in row], labels, strict=True))]


def naive_metrics(scores, positives, k):
    hits, precisions, averages = [], [], []
    for relevant in naive_ranking(scores, positives):
        r = sum(relevant)
        hits.append(any(relevant[:k]))
        precisions.append(sum(relevant[:r]) / r)
        averages.append(sum(sum(relevant[: i + 1]) / (i + 1) for i in range(r) if relevant[i]) / r)
    return np.mean(hits), np.mean(precisions), np.mean(averages)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("levels", [3, 10_000])  # three levels make nearly everything a tie
def test_agrees_with_a_naive_reference(levels, density, dtype):
    rng = np.random.default_rng(levels + int(100 * density))
    scores = rng.integers(0, levels, (40, 57)).astype(dtype)
    positives = rng.random(scores.shape) < density
    got = recall_at_k(scores, positives, [4])[4], r_precision(scores, positives), map_at_r(scores, positives)
    assert got == pytest.approx(naive_metrics(scores, positives, 4), abs=1e-12)


def test_small_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    scores, positives = rng.integers(0, 9, (23, 11)), rng.random((23, 11)) < 0.2
    whole = retrieval_metrics(scores, positives)
    monkeypatch.setattr(retrieval, "_BLOCK_ENTRIES", 30)
    assert retrieval_metrics(scores, positives) == whole


def test_monotone_transforms_and_column_order_change_nothing():
    rng = np.random.default_rng(1)
    scores, positives = rng.integers(-5, 5, (30, 40)) / 4, rng.random((30, 40)) < 0.1
    expected = retrieval_metrics(scores, positives)
    assert retrieval_metrics(np.exp(3 * scores) - 7, positives) == expected
    shuffled = rng.permutation(40)
    assert retrieval_metrics(scores[:, shuffled], positives[:, shuffled]) == pytest.approx(expected)


def test_both_directions_by_hand():
    # Two images with two captions each; caption 3 (of image 1) prefers image 0.
    scores = np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.3, 0.6, 0.5]])
    positives = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    metrics = retrieval_metrics(scores, positives)
    assert metrics["i2t/R@1"] == metrics["i2t/mAP@R"] == metrics["i2t/R-Precision"] == 1
    assert metrics["t2i/R@1"] == metrics["t2i/mAP@R"] == metrics["t2i/R-Precision"] == 0.75
    assert metrics["mAP@R"] == metrics["R-Precision"] == 0.875
    assert metrics["rsum"] == 575


def test_constant_scores_never_look_good():
    metrics = retrieval_metrics(np.zeros((20, 100)), np.eye(20, dtype=bool).repeat(5, axis=1))
    assert set(metrics.values()) == {0}


@pytest.mark.parametrize(
    ("scores", "positives", "message"),
    [
        (np.array([[np.nan, 1.0]]), np.array([[True, False]]), "1 scores are NaN"),
        (np.zeros((2, 3)), np.zeros((3, 2), bool), r"\(2, 3\).*\(3, 2\)"),
        (np.zeros(3), np.zeros(3, bool), "queries, candidates"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "no query has a positive"),
        (np.zeros((2, 3)), np.ones((2, 3)), "expected bool"),
    ],
)
@pytest.mark.parametrize("metric", [lambda s, p: recall_at_k(s, p, [1]), map_at_r, retrieval_metrics])
def test_bad_input_is_an_error(metric, scores, positives, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, positives)


def test_k_below_one_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        recall_at_k(np.eye(2), np.eye(2, dtype=bool), [0, 1])


def test_chance_is_the_mean_over_all_orders():
    """Of 12 candidates with 3 matches, every choice of the places that the matches have is as likely."""
    n = 12
    places = list(itertools.combinations(range(n), 3))
    positives = np.zeros((len(places), n), bool)
    for row, chosen in zip(positives, places, strict=True):
        row[list(chosen)] = True
    scores = np.tile(-np.arange(n, dtype=float), (len(places), 1))
    one = np.zeros((1, n), bool)
    one[0, :3] = True
    expected, found = retrieval_metrics(scores, positives), chance(one)
    for name in ("i2t/R@1", "i2t/R@5", "i2t/R@10", "i2t/mAP@R"):
        assert found[name] == pytest.approx(expected[name])


def test_a_usual_test_set_takes_no_time():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(500, 2500)).astype(np.float32)
    start = time.perf_counter()
    retrieval_metrics(scores, rng.random(scores.shape) < 0.05)
    assert time.perf_counter() - start < 2  # about 0.1 s on one core; the slack is for a busy machine


@pytest.mark.parametrize("module", [retrieval, graded, uncertainty, calibration])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
