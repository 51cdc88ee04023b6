"""AUROC pooled and within captions, false negatives, and uncertainty bins."""

import numpy as np
import pytest
from scipy import stats

from vacsr_jax.metrics.uncertainty import (
    auroc,
    auroc_within,
    best_unlabelled,
    distribution,
    false_negative_auroc,
    top1_uncertainty,
    topk_uncertainty,
    uncertainty_bins,
)


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0),
        ([1, 2, 3, 4], [0, 1, 0, 1], 3 / 4),
        ([5, 5, 5, 5], [0, 1, 0, 1], 1 / 2),
        ([1, 5, 5, 9], [0, 1, 0, 0], (1 + 0.5 + 0) / 3),
        ([-np.inf, 0, np.inf], [0, 0, 1], 1),
    ],
)
def test_auroc_by_hand(values, labels, expected):
    assert auroc(np.array(values, float), np.array(labels, bool)) == pytest.approx(expected)


def naive_auroc(values, labels):
    pairs = [(p > n) + 0.5 * (p == n) for p in values[labels] for n in values[~labels]]
    return sum(pairs) / len(pairs) if pairs else None


def test_auroc_within_agrees_with_counting_pairs():
    rng = np.random.default_rng(0)
    groups = rng.choice([-3, 0, 5, 70_000, 12], 200)
    values, labels = rng.integers(0, 8, 200), rng.random(200) < 0.3
    labels[groups == 12] = True  # a group of one class is left out
    per_group = [naive_auroc(values[groups == g], labels[groups == g]) for g in (-3, 0, 5, 70_000)]
    assert auroc_within(values, labels, groups) == pytest.approx(np.mean(per_group), abs=1e-12)
    assert auroc(values, labels) == pytest.approx(naive_auroc(values, labels), abs=1e-12)
    assert auroc(np.exp(values / 3), labels) == pytest.approx(auroc(values, labels), abs=1e-12)


def test_within_groups_sees_no_difference_between_groups():
    values, labels = np.array([1.0, 1, 2, 2]), np.array([False, False, True, False])
    assert auroc(values, labels) == pytest.approx(5 / 6)  # knows the caption
    assert auroc_within(values, labels, np.array([0, 0, 1, 1])) == 0.5  # but not the pair


def test_best_unlabelled_by_hand():
    scores = np.array([[9, 1, 5], [8, 1, 5], [7, 1, 5], [6, 2, 5]], float)
    labelled = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 0]], bool)
    expected = [
        [0, 1, 0],
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 1],
    ]  # ties: lower image
    np.testing.assert_array_equal(best_unlabelled(scores, labelled, top=2), np.array(expected, bool))
    np.testing.assert_array_equal(best_unlabelled(scores, labelled, top=50), ~labelled)


def test_best_unlabelled_agrees_with_sorting():
    rng = np.random.default_rng(1)
    scores, labelled = rng.integers(0, 12, (30, 25)).astype(float), rng.random((30, 25)) < 0.2
    got = best_unlabelled(scores, labelled, top=7)
    for column in range(25):
        free = [i for i in range(30) if not labelled[i, column]]
        best = sorted(free, key=lambda i: (-scores[i, column], i))[:7]
        assert np.flatnonzero(got[:, column]).tolist() == sorted(best)


def test_false_negative_auroc_by_hand():
    # Caption 0: labelled image 0; unlabelled 1 (match), 2, 3. Caption 1: labelled 3; unlabelled 0, 1 (match), 2.
    scores = np.array([[9, 8], [7, 4], [6, 5], [1, 9]], float)
    labelled = np.array([[1, 0], [0, 0], [0, 0], [0, 1]], bool)
    matches = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    result = false_negative_auroc(scores, scores, labelled, matches, top=2)
    # Caption 0 gives images 1 and 2; caption 1 gives 0 and 2, no match: only caption 0 counts within.
    assert result["top/within"] == 1
    assert result["top/pooled"] == pytest.approx(2 / 3)  # 7 against 6, 8, 5
    assert result["all/within"] == pytest.approx((1 + 0) / 2)
    assert result["all/pooled"] == pytest.approx((3 + 1) / 8)  # 7 and 4 against 6, 1, 8, 5
    opposite = false_negative_auroc(-scores, scores, labelled, matches, top=2)
    assert {k: 1 - v for k, v in opposite.items()} == pytest.approx(result)


def test_false_negative_auroc_refuses_what_it_cannot_compute():
    scores, labelled = np.ones((2, 2)), np.eye(2, dtype=bool)
    with pytest.raises(ValueError, match="both classes"):
        false_negative_auroc(scores, scores, labelled, labelled)  # no unlabelled match exists
    with pytest.raises(ValueError, match="shape"):
        false_negative_auroc(np.ones((3, 2)), scores, labelled, np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="top is 0"):
        best_unlabelled(scores, labelled, top=0)


def test_top1_uncertainty_is_that_of_the_best_pair_with_pessimistic_ties():
    scores = np.array([[3, 2, 1], [5, 5, 1], [5, 5, 1], [1, 2, 3]], float)
    positives = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    uncertainty = np.arange(12).reshape(4, 3) / 10
    value, hit = top1_uncertainty(scores, positives, uncertainty)
    np.testing.assert_allclose(value, [0.0, 0.4, 0.6])  # the last query has no positive
    assert hit.tolist() == [True, False, True]


def test_uncertainty_bins_by_hand():
    uncertainty = np.array([0.5, 0.1, 0.3, 0.2, 0.6, 0.4, 0.7])
    hit = np.array([1, 1, 0, 1, 0, 1, 0], bool)
    bins = uncertainty_bins(uncertainty, hit, bins=3)  # sorted: .1 .2 .3 | .4 .5 | .6 .7
    np.testing.assert_allclose(bins.uncertainty, [0.2, 0.45, 0.65])
    np.testing.assert_allclose(bins.quality, [2 / 3, 1, 0])
    assert bins.count.tolist() == [3, 2, 2]
    assert bins.spearman == pytest.approx(-0.5)
    assert bins.pearson == pytest.approx(stats.pearsonr([0.2, 0.45, 0.65], [2 / 3, 1, 0]).statistic)


def test_equal_uncertainties_share_their_hits():
    hit = np.array([True] * 5 + [False] * 5)
    for order in (hit, hit[::-1]):
        bins = uncertainty_bins(np.full(10, 0.3), order, bins=3)
        assert bins.quality.tolist() == [0.5, 0.5, 0.5]
        assert bins.pearson == bins.spearman == 0


def test_bins_of_a_quality_that_is_no_hit():
    bins = uncertainty_bins(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.5, 0.25, 0.0]), bins=2)
    np.testing.assert_allclose(bins.quality, [0.75, 0.125])


def test_topk_uncertainty_by_hand_and_whatever_the_order():
    scores = np.array([[9, 8, 7, 7, 7, 1], [2, 2, 2, 2, 2, 2]], float)
    uncertainty = np.array([[1, 2, 3, 6, 9, 100], [1, 2, 3, 4, 5, 6]], float)
    expected = {1: [1, 3.5], 2: [1.5, 3.5], 3: [3, 3.5], 4: [15 / 4, 3.5], 6: [121 / 6, 3.5]}
    for k, means in expected.items():
        for order in (slice(None), slice(None, None, -1)):
            np.testing.assert_allclose(topk_uncertainty(scores[:, order], uncertainty[:, order], k), means)


def test_topk_uncertainty_without_ties_is_the_mean_of_the_first_k():
    rng = np.random.default_rng(0)
    scores, uncertainty = rng.normal(size=(40, 30)), rng.random((40, 30))
    order = np.argsort(-scores, axis=1)[:, :7]
    expected = np.take_along_axis(uncertainty, order, axis=1).mean(axis=1)
    np.testing.assert_allclose(topk_uncertainty(scores, uncertainty, 7), expected)
    np.testing.assert_allclose(topk_uncertainty(scores.T, uncertainty.T, 1), uncertainty.T[range(30), scores.argmax(0)])


def test_a_distribution_is_its_numbers_without_what_is_infinite():
    values = np.r_[np.arange(101), np.inf, -np.inf]
    assert distribution(values) == pytest.approx((101, 50, np.arange(101).std(), 5, 50, 95))


@pytest.mark.parametrize("call", [
    lambda: auroc(np.array([1.0, np.nan]), np.array([True, False])),
    lambda: auroc(np.array([1.0, 2.0]), np.array([True, True])),
    lambda: auroc(np.array([1.0, 2.0]), np.array([1, 0])),
    lambda: auroc(np.array([1.0, 2.0]), np.array([True])),
    lambda: auroc(np.array([]), np.array([], bool)),
    lambda: uncertainty_bins(np.array([1.0, 2.0]), np.array([True, False]), bins=3),
    lambda: uncertainty_bins(np.array([1.0, np.nan]), np.array([True, False]), bins=2),
    lambda: uncertainty_bins(np.array([1.0, 2.0]), np.array([np.nan, 0.5]), bins=2),
    lambda: uncertainty_bins(np.array([1.0, 2.0]), np.array([0.5]), bins=2),
    lambda: topk_uncertainty(np.eye(2), np.eye(2), k=3),
    lambda: topk_uncertainty(np.eye(2), np.eye(2), k=0),
    lambda: distribution(np.array([np.nan])),
    lambda: distribution(np.array([np.inf])),
    lambda: top1_uncertainty(np.eye(2), np.eye(2, dtype=bool), np.full((2, 2), np.nan)),
])  # fmt: skip
def test_bad_input_is_an_error(call):
    with pytest.raises(ValueError, match=r"NaN|both classes|expected|equal|no finite"):
        call()
