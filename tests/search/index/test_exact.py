"""The exact store against float64 numpy: blocks, devices, ties, and what it refuses."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search.index import codes, exact
from vacsr_jax.search.index.exact import ExactStore
from vacsr_jax.search.index.scan import top_k

D = 16


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def draw(n, seed=0):
    """Vectors of unequal length with many ties: every third is a copy of an earlier one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * rng.uniform(0.1, 10, size=(n, 1))
    x[2::3] = x[: len(x[2::3])]
    return x.astype(np.float32)


def names(n, prefix="d"):
    return [f"{prefix}{i}" for i in range(n)]


def kept(documents):
    return codes.decode(codes.encode(unit_rows(documents)[0]))


def reference(documents, queries, k):
    """Numbers and scores of the best k in float64, of vectors as the store keeps them; first come, first."""
    a, b = unit_rows(queries)[0].astype(np.float64), kept(documents).astype(np.float64)
    scores = a @ b.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.slow
def test_the_best_of_many_blocks_in_order_of_arrival(devices, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", 256)  # two blocks and a rest on one device
    monkeypatch.setattr(exact, "QUERIES", 4)
    store, documents, queries = ExactStore(jax.devices()[:devices]), draw(700), draw(6, seed=1)
    for start, end in ((0, 1), (1, 300), (300, 700)):
        store.add(documents[start:end], names(700)[start:end], "image")
    ids, scores = store.topk(queries, 9, "image")
    order, expected = reference(documents, queries, 9)
    assert (ids == np.array(names(700), object)[order]).all()
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    true = np.sort(unit(queries.astype(np.float64)) @ unit(documents.astype(np.float64)).T, axis=1)[:, :-10:-1]
    np.testing.assert_allclose(scores, true, atol=2e-5)  # nearer where vectors have more than 16 numbers
    assert scores.dtype == np.float32
    assert store.count("image") == 700
    assert store.ids("image") == names(700)
    stored = np.concatenate(list(store.vectors("image")))
    np.testing.assert_array_equal(stored, kept(documents))


@pytest.mark.slow
def test_eight_devices_find_what_one_finds():
    documents, queries = draw(3000), draw(5, seed=1)
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        store = ExactStore(devices)
        store.add(documents, names(3000), "text")
        found.append(store.topk(queries, 40, "text"))
    assert (found[0][0] == found[1][0]).all()
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_block_holds_two_bytes_a_number_and_eight_a_document():
    store = ExactStore(jax.devices()[:1])
    store.add(np.ones((1024, D), np.float32), names(1024), "text")
    assert store.nbytes == 1024 * D * 2
    store.topk(np.ones((1, D), np.float32), 1, "text")
    assert store.nbytes <= 2 * 1024 * D * 2 + 8 * 1024  # the rest of a block is on the host and on the device
    (rows,) = store._rows.values()
    rows.blocks, rows.rest, rows.padded_rest = [rows.padded_rest], rows.rest[:0], None
    assert store.nbytes == 1024 * (D * 2 + 8)


def test_scores_are_those_of_float32_to_a_hundred_thousandth():
    rng = np.random.default_rng(0)
    documents, queries = rng.normal(size=(500, 512)) + 0.5, rng.normal(size=(4, 512)) + 0.5
    store = ExactStore(jax.devices()[:1])
    store.add(documents, names(500), "text")
    ids, scores = store.topk(queries, 500, "text")
    true = unit(queries) @ unit(documents).T
    found = [[int(x[1:]) for x in line] for line in ids]
    assert np.abs(np.take_along_axis(true, np.array(found), axis=1) - scores).max() < 1e-5


def clustered(n, d, centres, noise, seed=0):
    """Unit vectors around few centres, so that many documents are near the best of any query."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(centres, d))[rng.integers(0, centres, n)] + noise * rng.normal(size=(n, d))
    return unit(x).astype(np.float32)


# One query is multiplied in float32, several in bfloat16. Many documents lie near the best, or few.
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize(("centres", "noise"), [(4096, 1.0), (50, 0.1), (3, 0.002), (1, 0.0)])
@pytest.mark.slow
def test_what_is_found_from_half_of_each_vector_is_what_all_scores_give(queries, centres, noise, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", 2048)
    documents = clustered(6000, 64, centres, noise)
    asked = documents[7 : 7 + queries] + 0.02 * np.random.default_rng(1).normal(size=(queries, 64))
    for devices in (1, 4):
        store = ExactStore(jax.devices()[:devices])
        store.add(documents, names(6000), "image")
        ids, scores = store.topk(asked, 20, "image")
        every, numbers, _ = store._search(codes.rotate(unit_rows(asked)[0]), 20, "image", None)
        assert (ids == np.array(names(6000), object)[numbers]).all()
        np.testing.assert_allclose(scores, every, atol=1e-6)


def test_few_low_bytes_are_read_where_few_documents_are_near(monkeypatch):
    store, asked = ExactStore(jax.devices()[:1]), clustered(8, 64, 4096, 1.0, seed=1)
    store.add(clustered(6000, 64, 4096, 1.0), names(6000), "image")
    search, candidates = ExactStore._search, []
    monkeypatch.setattr(
        ExactStore, "_search", lambda self, q, k, m, c: candidates.append(c) or search(self, q, k, m, c)
    )
    store.topk(asked, 20, "image")
    assert candidates == [exact.CANDIDATES]
    store.topk(asked, 300, "image")
    assert candidates == [exact.CANDIDATES, None]


@pytest.mark.parametrize("kind", ["dense", "sparse", "one large number", "positive"])
@pytest.mark.parametrize("d", [24, 512])
@pytest.mark.slow
def test_a_near_duplicate_is_its_own_first_hit(kind, d):
    """2,000 pairs of documents at cosine .9998: each document, as a query, finds itself before the other one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, d))
    x = {
        "dense": x,
        "sparse": x * (rng.random(x.shape) < 4 / d) + 1e-3 * x,
        "positive": np.abs(x),
        "one large number": x,
    }[kind]
    if kind == "one large number":
        x[:, 3] += 2 * np.sqrt(d)
    x = unit(x)
    aside = rng.normal(size=x.shape)
    aside = unit(aside - np.sum(aside * x, axis=1, keepdims=True) * x)
    both = np.concatenate([x, 0.9998 * x + np.sqrt(1 - 0.9998**2) * aside]).astype(np.float32)
    store = ExactStore(jax.devices()[:1])
    store.add(both, names(4000), "image")
    asked = np.concatenate([both[:150], both[2000:2150]])
    ids, scores = store.topk(asked, 2, "image")
    assert ids[:, 0].tolist() == names(150) + [f"d{2000 + i}" for i in range(150)]
    assert ids[0, 1] == "d2000"
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)
    alone, _ = store.topk(asked[:1], 2, "image")
    assert alone[0].tolist() == ["d0", "d2000"]


def test_padding_is_never_found():
    store = ExactStore(jax.devices()[:1])
    store.add(-np.abs(draw(10)), names(10), "image")
    ids, scores = store.topk(np.abs(draw(4, seed=1)), 10, "image")
    assert scores.max() < 0  # padding would score 0
    assert all(set(line) == set(names(10)) for line in ids)


@pytest.mark.parametrize("k", [1, 5, 31, 32, 64])
@pytest.mark.slow
def test_top_k_by_groups_is_top_k(k):
    scores = np.random.default_rng(k).integers(0, 30, size=(3, 4096)).astype(np.float32)  # hundreds of ties
    for ours, theirs in zip(top_k(jnp.asarray(scores), k), jax.lax.top_k(scores, k), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def store():
    store = ExactStore(jax.devices()[:1])
    store.add(draw(20), names(20), "image")
    return store


GOOD = np.ones((2, D), np.float32)
BAD = {
    "one vector": (GOOD[0], ["a"], "image", r"embeddings: got shape \[16\]"),
    "no vector": (GOOD[:0], [], "image", r"embeddings: got shape \[0, 16\]"),
    "whole numbers": (GOOD.astype(int), ["a", "b"], "image", "embeddings: got int64"),
    "texts": (np.full((2, D), "x"), ["a", "b"], "image", "expected floating-point numbers"),
    "another size": (GOOD[:, :8], ["a", "b"], "image", "got 8 numbers each, expected 16"),
    "NaN": (np.array([[1.0] * D, [np.nan] * D]), ["a", "b"], "image", "not finite in float32: row 1, 1 in all"),
    "infinity": (np.full((2, D), -np.inf), ["a", "b"], "image", "row 0, 2 in all"),
    "zero": (np.zeros((2, D)), ["a", "b"], "image", "without direction: row 0"),
    "few ids": (GOOD, ["a"], "image", "ids: got 1 for 2 embeddings"),
    "numbers": (GOOD, [1, 2], "image", "ids: got 1, expected a text"),
    "empty id": (GOOD, ["a", ""], "image", "ids: got '', expected a text"),
    "twice": (GOOD, ["a", "a"], "image", "'a' occurs twice"),
    "there": (GOOD, ["a", "d3"], "text", "'d3' occurs twice"),
    "no modality": (GOOD, ["a", "b"], "", "modality: got ''"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_documents_are_refused_and_leave_nothing_behind(case, store):
    embeddings, ids, modality, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        store.add(embeddings, ids, modality)
    assert (store.modalities, store.count("image"), store.count("text")) == (("image",), 20, 0)


@pytest.mark.parametrize("k", [0, 21, True])
def test_a_k_that_cannot_be_served(k, store):
    with pytest.raises(ValueError, match=r"k: got .*, expected a whole number from 1 to 20.*image documents"):
        store.topk(GOOD, k, "image")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_length_of_a_vector_does_not_matter(scale, store):
    ids, scores = store.topk(draw(2, seed=5) * np.float32(scale), 3, "image")
    expected = store.topk(draw(2, seed=5), 3, "image")
    assert (ids == expected[0]).all()
    np.testing.assert_allclose(scores, expected[1], atol=1e-6)


def test_half_precision_is_taken(store):
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        assert store.topk(draw(2).astype(dtype), 1, "image")[1].min() > 0.99
