"""nDCG and Spearman against hand-made tables, a naive reference and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from vacsr_jax.metrics import retrieval
from vacsr_jax.metrics.graded import average_ranks, ndcg, spearman

LOG3 = math.log2(3)
# One query each: scores, relevance, k, and nDCG by hand (discounts 1, 1/log2(3), 1/2).
NDCG_TABLE = [
    ([3, 2, 1], [1, 0.5, 0], None, 1),
    ([1, 2, 3], [1, 0.5, 0], None, (0.5 / LOG3 + 1 / 2) / (1 + 0.5 / LOG3)),
    ([1, 2, 3], [1, 0.5, 0], 1, 0),
    ([1, 2, 3], [1, 0.5, 0], 2, (0.5 / LOG3) / (1 + 0.5 / LOG3)),
    ([3, 2, 1], [0.2, 0.2, 0.2], 2, 1),
    ([7, 7, 7], [1, 0, 0], None, 1 / 2),  # constant: the relevant one is last
    ([7, 7, 1], [1, 0.5, 0], None, (0.5 + 1 / LOG3) / (1 + 0.5 / LOG3)),
    ([7, 7, 1], [1, 0.5, 0], 99, (0.5 + 1 / LOG3) / (1 + 0.5 / LOG3)),
]


@pytest.mark.parametrize(("scores", "relevance", "k", "expected"), NDCG_TABLE)
def test_ndcg_by_hand(scores, relevance, k, expected):
    assert ndcg(np.array([scores]), np.array([relevance]), k) == pytest.approx(expected)


def test_ndcg_leaves_out_queries_without_relevance():
    scores, relevance = np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    assert ndcg(scores, relevance) == pytest.approx(1 / LOG3)


def naive_ndcg(scores, relevance, k):
    values = []
    for row, gains in zip(scores.tolist(), relevance.tolist(), strict=True):
        ranked = [g for _, g in sorted(zip([-s for s in row], gains, strict=True))][:k]
        ideal = sorted(gains, reverse=True)[:k]
        total = sum(g / math.log2(i + 2) for i, g in enumerate(ranked))
        values.append(total / sum(g / math.log2(i + 2) for i, g in enumerate(ideal)))
    return sum(values) / len(values)


@pytest.mark.parametrize("k", [None, 1, 7])
@pytest.mark.parametrize("levels", [3, 10_000])
def test_ndcg_agrees_with_a_naive_reference(levels, k, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_ENTRIES", 100)  # several blocks
    rng = np.random.default_rng(levels)
    scores, relevance = rng.integers(0, levels, (20, 31)), (1 + rng.integers(0, 4, (20, 31))) / 4
    assert ndcg(scores, relevance, k) == pytest.approx(naive_ndcg(scores, relevance, k), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 4, 10_000])
def test_spearman_agrees_with_scipy(levels, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_ENTRIES", 100)
    rng = np.random.default_rng(levels)
    scores, relevance = rng.normal(size=(20, 31)).round(1), rng.integers(0, levels, (20, 31)) / levels
    expected = [stats.spearmanr(s, r).statistic for s, r in zip(scores, relevance, strict=True)]
    assert spearman(scores, relevance) == pytest.approx(np.mean(expected), abs=1e-12)


def test_average_ranks_agree_with_scipy():
    values = np.random.default_rng(0).integers(0, 6, (9, 20))
    np.testing.assert_array_equal(average_ranks(values), stats.rankdata(values, axis=1))


def test_spearman_by_hand():
    scores = np.array([[1.0, 2, 3], [3, 2, 1], [1, 2, 3], [5, 5, 5]])
    relevance = np.array([[0.1, 0.2, 0.9], [0, 1, 0.5], [0.4, 0.4, 0.4], [0, 0.5, 1]])
    # 1 and -1/2; the constant relevance is left out; constant scores count as 0.
    assert spearman(scores, relevance) == pytest.approx((1 - 1 / 2 + 0) / 3)
    assert spearman(scores[:1], relevance[:1]) == pytest.approx(1)


def test_monotone_transforms_change_nothing():
    rng = np.random.default_rng(3)
    scores, relevance = rng.integers(-5, 5, (12, 30)) / 4, rng.random((12, 30))
    for metric in (ndcg, spearman):
        assert metric(np.exp(scores), relevance) == pytest.approx(metric(scores, relevance), abs=1e-12)


@pytest.mark.parametrize("metric", [ndcg, spearman])
@pytest.mark.parametrize(
    ("scores", "relevance", "message"),
    [
        (np.array([[np.nan, 1.0]]), np.array([[1.0, 0.0]]), "NaN"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape"),
        (np.zeros((1, 2)), np.array([[2.0, 0.0]]), r"expected \[0, 1\]"),
        (np.zeros((1, 2)), np.array([[np.nan, 0.0]]), r"expected \[0, 1\]"),
        (np.zeros((1, 2)), np.zeros((1, 2)), "check the relevance"),
    ],
)
def test_bad_input_is_an_error(metric, scores, relevance, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, relevance)


def test_ndcg_refuses_k_below_one():
    with pytest.raises(ValueError, match="k is 0"):
        ndcg(np.eye(2), np.eye(2), 0)
