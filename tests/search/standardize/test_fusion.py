"""The alternatives to standardization, each against numpy written from its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.ops.vectors import unit
from vacsr_jax.search.standardize import fusion
from vacsr_jax.search.standardize import statistics as S
from vacsr_jax.search.standardize.pseudo_positives import cosines

Q, N = 5, 12
MODALITY = np.array([0, 1, 1, 0, 2, 1, 0, 0, 1, 1, 0, 1])
KINDS = (0, 1, 2)


@pytest.fixture(scope="module")
def scores():
    x = np.random.default_rng(0).normal(0.5, 0.2, size=(Q, N)).astype(np.float32)
    x[0, 1] = x[1, 0] = -np.inf
    return x


def test_ranks_count_inside_a_modality(scores):
    got = np.asarray(fusion.ranks(scores, MODALITY))
    for row, places in zip(scores, got, strict=True):
        for c in range(N):
            mine = row[MODALITY[c] == MODALITY]
            assert places[c] == 1 + (mine > row[c]).sum()


def test_interleave_takes_every_modality_in_turn(scores):
    z = np.random.default_rng(1).normal(size=(Q, N)).astype(np.float32)
    got = np.asarray(fusion.interleave(scores, MODALITY, z))
    ranks = np.asarray(fusion.ranks(scores, MODALITY))
    for row in range(Q):
        order = sorted(range(N), key=lambda c: (ranks[row, c], -z[row, c]))
        expected = np.empty(N)
        expected[order] = -np.arange(N)
        expected[np.isneginf(scores[row])] = -np.inf
        np.testing.assert_array_equal(got[row], expected)


def test_rrf_is_interleaving_with_ties(scores):
    got = np.asarray(fusion.rrf(scores, MODALITY))
    expected = np.where(np.isneginf(scores), -np.inf, 1 / (60 + np.asarray(fusion.ranks(scores, MODALITY))))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("depth", [3, None])
def test_dbsf_is_the_z_score_of_each_list(scores, depth):
    got = np.asarray(fusion.dbsf(scores, MODALITY, 3, depth=depth))
    for row in range(Q):
        for kind in KINDS:
            mine = np.flatnonzero((kind == MODALITY) & np.isfinite(scores[row]))
            best = np.sort(scores[row, mine].astype(np.float64))[::-1][:depth]
            low, high = best.mean() - 3 * best.std(), best.mean() + 3 * best.std()
            expected = (scores[row, mine] - low) / (high - low) if high > low else np.full(len(mine), 0.5)
            np.testing.assert_allclose(got[row, mine], expected, rtol=1e-4)
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(scores))


def test_oracle_keeps_the_modality_of_the_answer(scores):
    wanted = np.eye(3, dtype=bool)[[0, 1, 2, 0, 1]]
    wanted[0, 1] = True
    got = np.asarray(fusion.oracle(scores, MODALITY, wanted))
    np.testing.assert_array_equal(got, np.where(wanted[:, MODALITY], scores, -np.inf))


def test_means_and_centring():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N, 4)).astype(np.float32)
    mean = np.asarray(fusion.means(x, MODALITY, 4))
    for kind in KINDS:
        np.testing.assert_allclose(mean[kind], x[kind == MODALITY].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(mean[3], 0)  # a modality without items
    centred = x - mean[MODALITY]
    expected = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(fusion.center(x, MODALITY, mean), expected, atol=1e-6)


@pytest.mark.slow
def test_the_query_bias_is_the_inverted_softmax_whatever_the_blocks():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(9, N)).astype(np.float32)
    z[2, 3] = z[:, 5] = -np.inf
    expected = np.array([2 * np.log(np.mean(np.exp(column[np.isfinite(column)] / 2))) if np.isfinite(column).any()
                         else np.inf for column in z.T.astype(np.float64)])  # fmt: skip
    for blocks in ([z], [z[:4], z[4:]]):
        np.testing.assert_allclose(fusion.query_bias(blocks, 2.0), expected, rtol=1e-5, atol=1e-6)
    inverted = z / 2 - np.asarray(fusion.query_bias([z], 2.0)) / 2 - np.log(np.isfinite(z).sum(0).clip(1))
    np.testing.assert_allclose(np.exp(inverted).sum(0)[np.isfinite(expected)], 1, rtol=1e-5)  # P(q | c) sums to 1
    with pytest.raises(ValueError, match="no queries"):
        fusion.query_bias([])


def test_the_query_bias_between_its_two_limits():
    z = np.random.default_rng(4).normal(size=(50, N)).astype(np.float32)
    np.testing.assert_allclose(fusion.query_bias([z], 1e-3), z.max(0), atol=1e-2)
    np.testing.assert_allclose(fusion.query_bias([z], 1e3), z.mean(0), atol=1e-2)


def test_an_offset_of_a_modality_drops_out_of_the_inverted_softmax():
    z = np.random.default_rng(5).normal(size=(6, N)).astype(np.float32)
    moved = z + np.array([3.0, -1.0, 0.5], np.float32)[MODALITY]
    plain, shifted = (x - fusion.query_bias([x]) for x in (jnp.asarray(z), jnp.asarray(moved)))
    np.testing.assert_allclose(plain, shifted, atol=1e-5)


def test_scores_with_the_bias_are_inner_products_as_documented():
    rng = np.random.default_rng(6)
    queries, documents = (np.asarray(unit(rng.normal(size=(n, 4)).astype(np.float32))) for n in (Q, N))
    stats = S.fit(queries, documents, MODALITY, ("a", "b", "c"))
    z = S.standardize(cosines(queries, documents), MODALITY, stats)
    bias = fusion.query_bias([z])
    mean, std = (np.asarray(x)[0][MODALITY][:, None] for x in S.scale(stats))
    stored = np.concatenate([documents / std, -mean / std - np.asarray(bias)[:, None]], axis=1)
    asked = np.concatenate([queries, np.ones((Q, 1), np.float32)], axis=1)
    np.testing.assert_allclose(asked @ stored.T, z - bias, atol=1e-4)
