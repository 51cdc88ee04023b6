"""The mixed ranking against brute force, over a store without standardization."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vacsr_jax.search.standardize import ranking
from vacsr_jax.search.standardize import statistics as S

NAMES = ("image", "text", "table")
quick = settings(max_examples=30, deadline=None)


class NumpyStore:
    """Brute force in float64, with only what the protocol asks for."""

    def __init__(self, documents):
        self.documents = documents  # modality -> {id: unit vector}

    @property
    def modalities(self):
        return tuple(self.documents)

    def count(self, modality):
        return len(self.documents[modality])

    def topk(self, queries, k, modality):
        ids = np.array(list(self.documents[modality]), object)
        scores = np.asarray(queries) @ np.stack(list(self.documents[modality].values())).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return ids[order], np.take_along_axis(scores, order, axis=1).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def draw(seed, sizes=(9, 14, 3), q=5, d=6):
    rng = np.random.default_rng(seed)
    store = NumpyStore(
        {name: {f"{name}{i}": unit(rng.normal(size=d) + j) for i in range(n)}
         for j, (name, n) in enumerate(zip(NAMES, sizes, strict=True))}
    )  # fmt: skip
    return store, unit(rng.normal(size=(q, d)) + 1)


def make_stats(seed):
    rng = np.random.default_rng(seed)
    mean, std = rng.uniform(-0.5, 0.5, (1, 3)), rng.uniform(0.05, 0.5, (1, 3))
    arrays = {"count": np.full((1, 3), 50.0), "mean": mean, "m2": 50 * std**2}
    empty = S.empty(NAMES)
    return dataclasses.replace(empty, **{k: jnp.asarray(x, jnp.float32) for k, x in arrays.items()})


def brute_force(store, stats, query, prior=(0, 0, 0)):
    """(z + prior, z, score, modality, id) of every document, best first."""
    mean, std = np.asarray(stats.mean)[0], np.asarray(stats.std)[0]
    found = []
    for j, name in enumerate(stats.modalities):
        for x, vector in store.documents[name].items():
            score = float(query @ vector)
            z = (score - mean[j]) / std[j]
            found.append((z + prior[j], z, score, name, x))
    return sorted(found, reverse=True)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 26))
def test_the_merge_of_each_modalitys_best_is_the_exact_ranking(seed, k):
    store, queries = draw(seed)
    stats = make_stats(seed)
    hits = ranking.search(store, stats, queries, k)
    for i, query in enumerate(queries):
        expected = brute_force(store, stats, query)[:k]
        assert hits.ids[i].tolist() == [line[4] for line in expected]
        assert hits.modality[i].tolist() == [line[3] for line in expected]
        np.testing.assert_allclose(hits.score[i], [line[2] for line in expected], atol=1e-6)
        np.testing.assert_allclose(hits.z[i], [line[1] for line in expected], atol=1e-4)


@quick
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_a_prior_moves_a_modality_and_not_its_z(seed, offset):
    store, queries = draw(seed)
    stats = make_stats(seed)
    hits = ranking.search(store, stats, queries, 8, prior={"text": offset})
    for i, query in enumerate(queries):
        expected = brute_force(store, stats, query, (0, offset, 0))[:8]
        np.testing.assert_allclose(hits.z[i], [line[1] for line in expected], atol=1e-4)


def test_a_large_prior_is_a_filter():
    store, queries = draw(0)
    hits = ranking.search(store, make_stats(0), queries, 9, prior={"image": 1000})
    assert (hits.modality == "image").all()


def test_limits_of_each_modality():
    store, queries = draw(0)
    hits = ranking.search(store, make_stats(0), queries, 6, per_modality_k=2)
    assert all((hits.modality == name).sum(axis=1).tolist() == [2] * 5 for name in NAMES)
    hits = ranking.search(store, make_stats(0), queries, 12, per_modality_k={"text": 0, "image": 100})
    assert set(hits.modality.ravel()) == {"image", "table"}
    free = ranking.search(store, make_stats(0), queries, 6)
    loose = ranking.search(store, make_stats(0), queries, 6, per_modality_k=50)
    assert (free.ids == loose.ids).all()


def test_a_modality_without_documents_is_passed_over():
    store, queries = draw(0, sizes=(9, 14, 0))
    assert set(ranking.search(store, make_stats(0), queries, 23).modality.ravel()) == {"image", "text"}


def test_the_fit_is_that_of_the_pure_functions():
    store, queries = draw(3)
    vectors = np.concatenate([np.stack(list(documents.values())) for documents in store.documents.values()])
    kinds = np.repeat(np.arange(3), (9, 14, 3))
    ours = ranking.fit(store, queries, model_id="m")
    theirs = S.fit(queries.astype(np.float32), vectors.astype(np.float32), kinds, NAMES, model_id="m")
    for name in ("count", "mean", "m2"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
    assert (ours.modalities, ours.pool_sizes, ours.model_id) == (NAMES, (9, 14, 3), "m")


def test_what_a_query_excludes_is_no_pseudo_positive():
    store, queries = draw(4)
    best, _ = store.topk(queries, 2, "image")
    exclude = [set(best[0]), {best[1][0]}, (), ["nobody"], set(store.documents["table"])]
    scores = ranking.best_scores(store, queries, exclude)
    ranked = store.topk(queries, 9, "image")[1]
    np.testing.assert_allclose(scores[:4, 0], ranked[range(4), [2, 1, 0, 0]])
    assert scores[4, 2] == -np.inf
    assert np.isfinite(np.asarray(ranking.fit(store, queries, exclude).mean)).all()


BAD = {
    "unknown limit": (
        {"per_modality_k": {"audio": 1}},
        "per_modality_k: got the modality 'audio', expected one of ima",
    ),
    "negative limit": ({"per_modality_k": -1}, "per_modality_k: got -1 for image"),
    "unknown prior": ({"prior": {"audio": 1}}, "prior: got the modality 'audio'"),
    "NaN prior": ({"prior": {"text": np.nan}}, "prior: got nan for text"),
    "unknown query": ({"query_modality": "image"}, "query_modality: got the modality 'image', expected one of text"),
    "k": ({"k": 27}, "k: got 27, expected a whole number from 1 to 26, since there are 26 documents"),
    "k of limits": ({"k": 5, "per_modality_k": 1}, "from 1 to 3, since there are 3 documents to choose from"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    arguments, message = BAD[case]
    store, queries = draw(0)
    with pytest.raises(ValueError, match=message):
        ranking.search(store, make_stats(0), queries, arguments.pop("k", 3), **arguments)


def test_a_modality_that_was_never_fitted_is_named():
    store, queries = draw(0)
    with pytest.raises(ValueError, match="there are no statistics of table, only of image, text; fit again"):
        ranking.search(store, S.empty(("image", "text")), queries, 3)
    with pytest.raises(ValueError, match="exclude: got 1 collections of ids for 5 queries"):
        ranking.fit(store, queries, [()])
