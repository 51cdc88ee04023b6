"""The worked example of the search page: statistics of parts of the queries, and of two collections, merge."""

import numpy as np

from tests.search.stores.test_vector_stores import NAMES, draw, exact_index, fill, ids_of, make_lance
from vacsr_jax.search.standardize import ranking, statistics


def test_parts_of_the_queries_merge():
    documents, queries = draw(7)
    store = fill(make_lance(), documents)
    merged = statistics.merge(ranking.fit(store, queries[:2]), ranking.fit(store, queries[2:]))
    whole = ranking.fit(store, queries)
    for name in ("count", "mean", "m2"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), atol=1e-5)


def test_two_collections_merge():
    documents, queries = draw(8)
    europe, america, index = make_lance(), make_lance(), exact_index(documents)
    for name in NAMES:
        europe.add(documents[name][:9], ids_of(name)[:9], name)
        america.add(documents[name][9:], ids_of(name)[9:], name)
    best = np.maximum(ranking.best_scores(europe, queries), ranking.best_scores(america, queries))
    stats = statistics.update(statistics.empty(europe.modalities), best)
    index.fit(queries)
    np.testing.assert_allclose(stats.mean, index.stats.mean, atol=1e-5)
    found = [store.search(stats, queries, 8) for store in (europe, america)]
    z, ids = (np.concatenate([getattr(hits, name) for hits in found], axis=1) for name in ("z", "ids"))
    order = np.argsort(-z, axis=1)[:, :8]
    expected = index.search(queries, 8)
    np.testing.assert_allclose(np.take_along_axis(z, order, axis=1), expected.z, atol=1e-3)
    assert [set(line) for line in np.take_along_axis(ids, order, axis=1)] == [set(line) for line in expected.ids]
