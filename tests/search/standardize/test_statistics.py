"""The properties that similarity standardization must have, and the statistics against float64 numpy."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vacsr_jax.search.standardize import statistics as S

Q, N, K = 7, 24, 6
NAMES = ("image", "text")
MODALITY = np.arange(N) % 2
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def random_scores(seed, q=Q):
    """Cosines of two modalities on scales of their own, float32 [q, N]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(q, N))
    return np.where(MODALITY == 0, 0.25 + 0.03 * noise, 0.7 + 0.1 * noise).astype(np.float32)


def best(scores, modality=MODALITY, m=2):
    return np.stack([np.max(scores[:, modality == i], axis=1, initial=-np.inf) for i in range(m)], axis=1)


def fit(scores):
    return S.update(S.empty(NAMES), best(scores))


def make(mean, std, count=100.0, names=NAMES):
    arrays = [jnp.asarray([x], jnp.float32) for x in (np.full(len(mean), count), mean, count * np.square(std))]
    return dataclasses.replace(
        S.empty(names),
        **dict(zip(("count", "mean", "m2"), arrays, strict=True)),
    )


def assert_same_ranking(z, scores):
    order = np.argsort(scores, axis=1)
    assert (np.diff(np.take_along_axis(z, order, axis=1), axis=1) >= 0).all()


# The properties.


@quick
@given(SEEDS)
def test_the_order_inside_a_modality_never_changes(seed):
    scores = random_scores(seed)
    z = np.asarray(S.standardize(scores, MODALITY, fit(scores)))
    for m in (0, 1):
        mine = m == MODALITY
        assert_same_ranking(z[:, mine], scores[:, mine])


@quick
@given(SEEDS, st.floats(0.1, 100), st.floats(-20, 20))
def test_a_positive_affine_change_of_one_modality_and_a_refit_change_nothing(seed, slope, offset):
    scores = random_scores(seed).astype(np.float64)
    changed = np.where(MODALITY == 0, slope * scores + offset, scores)
    z, refitted = (np.asarray(S.standardize(s, MODALITY, fit(s))) for s in (scores, changed))
    # float32 keeps 7 digits of a score; the standard deviation may be as little as 3e-3 / 20 of it.
    np.testing.assert_allclose(refitted, z, atol=2e-5 * (1 + abs(offset) / (0.03 * slope)), rtol=1e-3)


@quick
@given(SEEDS, st.floats(-1, 1))
def test_a_shift_of_all_scores_of_one_query_changes_no_ranking(seed, shift):
    scores = random_scores(seed)
    stats = make([0.2, 0.6], [0.05, 0.05])
    z, shifted = (np.asarray(S.standardize(s, MODALITY, stats)) for s in (scores, scores + np.float32(shift)))
    np.testing.assert_allclose(shifted - z, shift / 0.05, atol=1e-4)


@quick
@given(SEEDS, st.floats(-1, 1), st.floats(0.01, 2))
def test_equal_statistics_give_the_raw_ranking(seed, mean, std):
    scores = random_scores(seed)
    z = np.asarray(S.standardize(scores, MODALITY, make([mean, mean], [std, std])))
    assert_same_ranking(z, scores)


@quick
@given(SEEDS)
def test_one_modality_gives_the_raw_ranking(seed):
    scores = random_scores(seed)
    stats = S.update(S.empty(("any",)), scores.max(axis=1, keepdims=True))
    z = np.asarray(S.standardize(scores, np.zeros(N, int), stats))
    assert_same_ranking(z, scores)


@quick
@given(SEEDS)
def test_the_mixed_top_k_is_the_merge_of_the_top_k_of_each_modality(seed):
    scores = random_scores(seed)
    stats = fit(scores)
    exact, rows = jax.lax.top_k(S.standardize(scores, MODALITY, stats), K)
    lists = []
    for m in (0, 1):
        mine = np.flatnonzero(m == MODALITY)
        values, places = jax.lax.top_k(jnp.asarray(scores[:, mine]), K)
        lists.append((S.standardize(values, np.full(K, m), stats), mine[np.asarray(places)]))
    merged = np.concatenate([z for z, _ in lists], axis=1)
    ids = np.concatenate([ids for _, ids in lists], axis=1)
    order = np.argsort(-merged, axis=1)[:, :K]
    np.testing.assert_allclose(np.take_along_axis(merged, order, 1), exact, rtol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(ids, order, 1), rows)


# The statistics.


@quick
@given(SEEDS, st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_merge_of_any_split_equals_all_at_once_and_numpy(seed, sizes):
    x = np.random.default_rng(seed).normal([0.3, 0.8], [0.02, 0.1], size=(100, 2))
    ends = np.cumsum([0, *sizes])
    merged = S.empty(NAMES, [3, 4])
    for start, end in reversed(list(itertools.pairwise(ends))):
        inside = (np.arange(100) >= start) & (np.arange(100) < end)  # scores outside are NaN and do not count
        merged = S.merge(S.update(S.empty(NAMES, [5, 2]), np.where(inside[:, None], x, np.nan)), merged)
    together = S.update(S.empty(NAMES, [3, 4]), np.where(np.arange(100)[:, None] < ends[-1], x, np.nan))
    x = x[: ends[-1]]
    for stats in (merged, together):
        np.testing.assert_array_equal(stats.count, [[len(x)] * 2])
        if len(x):
            np.testing.assert_allclose(stats.mean[0], x.mean(0), rtol=1e-6)
            np.testing.assert_allclose(stats.m2[0], ((x - x.mean(0)) ** 2).sum(0), rtol=2e-4, atol=1e-7)
    assert merged.pool_sizes == (5, 4)


def test_a_million_scores_keep_their_digits():
    x = np.random.default_rng(0).normal([0.3, 0.8], [0.01, 0.1], size=(1_000_000, 2)).astype(np.float32)
    stats = S.update(S.empty(NAMES), x)
    np.testing.assert_allclose(stats.mean[0], x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(stats.std[0], x.std(0, dtype=np.float64), rtol=1e-5)


def test_rows_are_the_modalities_of_the_queries_and_missing_scores_are_not_counted():
    stats = S.empty(NAMES, query_modalities=("text", "image"))
    scores = np.array([[0.1, 0.5], [0.2, -np.inf], [0.9, 0.7], [np.nan, 0.9]], np.float32)
    stats = S.update(stats, scores, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(stats.count, [[2, 1], [1, 2]])
    np.testing.assert_allclose(stats.mean, [[0.15, 0.5], [0.9, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(stats.variance, [[0.0025, 0], [0, 0.01]], rtol=1e-5, atol=1e-9)
    z = S.standardize(scores[2:3], np.array([0, 1]), stats, np.array([1]))
    np.testing.assert_allclose(z, [[0.0, -1.0]], atol=1e-5)  # image takes the standard deviation of text


def test_the_standard_errors_are_those_of_repeated_fits():
    x = np.random.default_rng(1).normal(0.3, 0.02, size=(400, 50, 1))
    fits = [S.update(S.empty(("any",)), one) for one in x[:3]]
    assert float(fits[0].standard_error_mean[0, 0]) == pytest.approx(x.mean(1).std(), rel=0.2)
    assert float(fits[0].standard_error_std[0, 0]) == pytest.approx(x.std(1).std(), rel=0.2)
    nothing = S.empty(NAMES)
    assert np.isinf(nothing.standard_error_mean).all()
    assert np.isinf(nothing.standard_error_std).all()


def test_statistics_are_a_pytree_that_jit_takes():
    stats = make([0.3, 0.8], [0.02, 0.1])
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(stats)
    assert doubled.modalities == NAMES
    np.testing.assert_allclose(doubled.mean, 2 * stats.mean)


# Variants and edges.


def test_mean_only_and_shrunk_variances():
    stats = make([0.3, 0.8], [0.02, 0.1], count=50.0)
    np.testing.assert_allclose(S.mean_only(stats).std, 1, rtol=1e-6)
    np.testing.assert_allclose(S.mean_only(stats).mean, stats.mean)
    pooled = (0.02**2 + 0.1**2) / 2
    expected = (50 * np.square([0.02, 0.1]) + 150 * pooled) / 200
    np.testing.assert_allclose(S.shrink(stats, 150.0).variance[0], expected, rtol=1e-5)
    np.testing.assert_allclose(S.shrink(stats, 0.0).variance, stats.variance, rtol=1e-6)
    assert np.isfinite(S.shrink(S.empty(NAMES), 0.0).m2).all()


@pytest.mark.parametrize(
    ("scores", "mean", "std"),
    [
        ([[0.3, 0.8]], [0.3, 0.8], [1, 1]),  # one query: only the means
        ([[0.3, 0.8], [0.3, 0.8]], [0.3, 0.8], [1, 1]),  # no standard deviation
        ([[0.3, 0.7], [0.3, 0.9]], [0.3, 0.8], [0.1, 0.1]),  # the other's standard deviation
        ([[-np.inf, 0.7], [-np.inf, 0.9]], [0.8, 0.8], [0.1, 0.1]),  # an empty modality
        (np.zeros((0, 2)), [0, 0], [1, 1]),
    ],
)
def test_the_scale_is_always_finite(scores, mean, std):
    stats = S.update(S.empty(NAMES), np.array(scores, np.float32))
    got = S.scale(stats)
    np.testing.assert_allclose(got[0][0], mean, rtol=1e-6)
    np.testing.assert_allclose(got[1][0], std, rtol=1e-5)
    z = S.standardize(np.array([[0.3, 0.7]], np.float32), np.array([0, 1]), stats)
    assert np.isfinite(z).all()


def test_no_nan_and_no_unknown_modality_reaches_a_ranking():
    stats = make([0.3, 0.8], [0.02, 0.1])
    scores = np.array([[np.nan, -np.inf, 0.3, 0.3, 0.3]], np.float32)
    z = np.asarray(S.standardize(scores, np.array([0, 1, 2, -1, 0]), stats))
    np.testing.assert_array_equal(z, [[-np.inf] * 4 + [0]])


def test_statistics_age_when_a_modality_doubles_or_halves():
    stats = S.empty(("a", "b", "c", "d"), [10, 10, 10, 0])
    assert S.aged(stats, [19, 20, 5, 0]) == {"b": (10, 20), "c": (10, 5), "d": (0, 0)}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="none twice"):
        S.empty(("text", "text"))
    with pytest.raises(ValueError, match="at least one name"):
        S.empty(())
    with pytest.raises(ValueError, match="give one each"):
        S.empty(NAMES, [1])
    with pytest.raises(ValueError, match="model_id 'a' and 'b'"):
        S.merge(S.empty(NAMES, model_id="a"), S.empty(NAMES, model_id="b"))


# Files.


def test_a_file_brings_back_every_digit(tmp_path):
    stats = S.update(S.empty(NAMES, [3, 4], model_id="clip"), np.random.default_rng(0).normal(size=(9, 2)))
    S.save(stats, tmp_path / "new" / "stats.json")
    back = S.load(tmp_path / "new" / "stats.json")
    jax.tree.map(np.testing.assert_array_equal, back, stats)
    assert (back.modalities, back.pool_sizes, back.model_id) == (NAMES, (3, 4), "clip")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("mean"),
        lambda d: d.update(more=1),
        lambda d: d.update(mean=[[0.1]]),
        lambda d: d.update(mean=[[0.1, None]]),
        lambda d: d.update(m2=[[-1.0, 1.0]]),
        lambda d: d.update(count="many"),
        lambda d: d.update(pool_sizes=None, modalities=None),
        lambda d: d.update(modalities=[True, "text"]),
        lambda d: d.update(pool_sizes=[float("inf"), 1]),
    ],
)
def test_a_damaged_file_is_named(change, tmp_path):
    path = tmp_path / "stats.json"
    values = S.to_dict(make([0.3, 0.8], [0.02, 0.1]))
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"stats\.json holds no statistics"):
        S.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"stats\.json holds no statistics"):
        S.load(path)
