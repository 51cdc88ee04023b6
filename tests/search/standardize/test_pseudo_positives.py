"""The best candidate of every modality: against numpy, in chunks, on a mesh, and as the documents grows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.ops.vectors import unit
from vacsr_jax.search.standardize import pseudo_positives as P
from vacsr_jax.search.standardize import statistics as S

Q, N, D, M = 6, 45, 8, 3


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    queries, documents = (np.asarray(unit(rng.normal(size=(n, D)).astype(np.float32))) for n in (Q, N))
    modality = rng.integers(0, 2, N)  # the third modality has no candidate
    modality[-2:] = -1  # padding
    exclude = rng.integers(0, N, size=(Q, 3))
    exclude[:, 0] = np.argmax(queries @ documents.T, axis=1)
    exclude[0] = -1
    return queries, documents, modality, exclude


def by_numpy(queries, documents, modality, exclude):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    for row, hidden in zip(scores, exclude, strict=True):
        row[hidden[hidden >= 0]] = -np.inf
    return np.stack([np.max(scores[:, modality == m], axis=1, initial=-np.inf) for m in range(M)], axis=1)


@pytest.mark.parametrize("chunk", [7, 45, 1000, None])
def test_top1_equals_numpy_whatever_the_chunk(problem, chunk):
    queries, documents, modality, exclude = problem
    got = P.top1_scores(queries, documents, modality, M, exclude=exclude, chunk=chunk)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, by_numpy(*problem), atol=1e-6)


def test_nothing_excluded_and_no_documents(problem):
    queries, documents, modality, _ = problem
    none = np.full((Q, 1), -1)
    np.testing.assert_allclose(
        P.top1_scores(queries, documents, modality, M), by_numpy(queries, documents, modality, none), atol=1e-6
    )
    assert np.isneginf(P.top1_scores(queries, documents[:0], modality[:0], M)).all()


def test_half_precision_storage_has_float32_scores(problem):
    queries, documents, modality, exclude = problem
    half = jnp.asarray(documents, jnp.bfloat16)
    got = P.top1_scores(queries, half, modality, M, exclude=exclude)
    np.testing.assert_allclose(got, by_numpy(queries, np.asarray(half, np.float32), modality, exclude), atol=1e-6)


def test_a_broken_vector_is_never_the_best(problem):
    queries, documents, modality, exclude = problem
    broken = documents.copy()
    broken[3] = np.nan
    whole = by_numpy(queries, documents, np.where(np.arange(N) == 3, -1, modality), exclude)
    np.testing.assert_allclose(P.top1_scores(queries, broken, modality, M, exclude=exclude), whole, atol=1e-6)


@pytest.mark.parametrize("axes", [{"query": 2, "documents": 4}, {"documents": 8}, {"query": 8}])
@pytest.mark.slow
def test_on_a_mesh_scores_and_statistics_are_those_of_one_device(problem, axes):
    queries, documents, modality, exclude = problem  # 6 and 45 rows: neither divides by the devices
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
    got = P.top1_scores(queries, documents, modality, M, exclude=exclude, mesh=mesh)
    one = P.top1_scores(queries, documents, modality, M, exclude=exclude)
    np.testing.assert_allclose(got, one, atol=1e-7)
    names = ("image", "text", "sound")
    shared, alone = (S.fit(queries, documents, modality, names, exclude=exclude, mesh=m) for m in (mesh, None))
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert shared.pool_sizes == alone.pool_sizes == tuple(int(np.sum(modality == i)) for i in range(M))


def test_a_mesh_needs_an_axis_of_ours(problem):
    queries, documents, modality, _ = problem
    with pytest.raises(ValueError, match="expected query, documents or both"):
        P.top1_scores(queries, documents, modality, M, mesh=jax.make_mesh((8,), ("data",)))


def test_new_candidates_alone_bring_the_statistics_up_to_date(problem):
    queries, documents, modality, _ = problem
    running = P.top1_scores(queries, documents[:20], modality[:20], M)
    for part in (slice(20, 33), slice(33, N)):
        running = jnp.maximum(running, P.top1_scores(queries, documents[part], modality[part], M))
    names = ("image", "text", "sound")
    grown = S.update(S.empty(names), running)
    whole = S.fit(queries, documents, modality, names)
    for a, b in zip(jax.tree.leaves(grown), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_query_that_is_a_candidate_must_be_excluded(problem):
    _, documents, _, _ = problem
    modality = np.arange(N) % 2
    itself = np.arange(N)[:, None]
    naive = S.fit(documents, documents, modality, ("image", "text"))
    fair = S.fit(documents, documents, modality, ("image", "text"), exclude=itself)
    top = P.top1_scores(documents, documents, modality, 2)
    np.testing.assert_allclose(top[np.arange(N), modality], 1, atol=1e-6)
    assert (np.asarray(fair.mean) < np.asarray(naive.mean) - 0.05).all()


def test_labelled_scores_are_those_of_the_true_pairs(problem):
    queries, documents, modality, _ = problem
    answers = np.array([[4, -1], [5, 6], [-1, -1], [0, 1], [2, 3], [43, 44]])
    got = np.asarray(P.labelled_scores(queries, documents, modality, M, answers))
    for i, rows in enumerate(answers):
        for m in range(M):
            true = [queries[i] @ documents[r] for r in rows if r >= 0 and modality[r] == m]
            assert got[i, m] == pytest.approx(max(true, default=-np.inf), abs=1e-6)
