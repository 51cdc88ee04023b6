"""Stores rank as the exact index does: FAISS, LanceDB, Milvus Lite, Qdrant in memory, and a server if there is one."""

import dataclasses
import functools
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search.index import MixedIndex, codes
from vacsr_jax.search.standardize import ranking
from vacsr_jax.search.standardize import statistics as S
from vacsr_jax.search.stores import FaissStore, LanceStore, MilvusStore, QdrantStore
from vacsr_jax.search.stores.milvus import import_pymilvus

D, SIZES = 8, {"image": 20, "text": 30}
NAMES = tuple(SIZES)


def kept_units(rng, n, shift):
    """Unit vectors as the exact index keeps them, so that every store has the same."""
    x = (rng.integers(-60, 61, size=(n, D)) + shift).astype(np.float32)
    return codes.decode(codes.encode(unit_rows(x)[0]))


def draw(seed):
    rng = np.random.default_rng(seed)
    documents = {name: kept_units(rng, n, 20 * i) for i, (name, n) in enumerate(SIZES.items())}
    return documents, kept_units(rng, 6, 20)


def test_the_exact_index_keeps_the_vectors_as_they_are():
    vectors = np.concatenate(list(draw(0)[0].values()))
    np.testing.assert_allclose(codes.decode(codes.encode(vectors)), vectors, atol=1e-6)


def ids_of(name):
    return [f"{name}/{i}" for i in range(SIZES[name])]


def fill(store, documents):
    for name, vectors in documents.items():
        for part in (slice(0, 7), slice(7, None)):
            store.add(vectors[part], ids_of(name)[part], name)
    return store


def make_stats(seed):
    rng = np.random.default_rng(seed)
    arrays = {"count": np.full((1, 2), 50.0), "mean": rng.uniform(-0.5, 0.9, (1, 2)), "m2": rng.uniform(0.1, 5, (1, 2))}
    return dataclasses.replace(
        S.empty(NAMES, tuple(SIZES.values())), **{name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    )


def exact_index(documents):
    return fill(MixedIndex(devices=jax.devices()[:1]), documents)


def assert_same(hits, expected):
    """Asserts that two results are equal but for the order among equal scores."""
    np.testing.assert_allclose(hits.z, expected.z, atol=1e-4)
    for ids, z, others in zip(hits.ids, hits.z, expected.ids, strict=True):
        apart = np.ones(len(z) + 1, bool)
        apart[1:-1] = np.abs(np.diff(z)) > 2e-4
        edges = np.flatnonzero(apart)
        for start, end in itertools.pairwise(edges):
            if end < len(z):  # the last group may be cut
                assert set(ids[start:end]) == set(others[start:end])


def make_faiss():
    pytest.importorskip("faiss", reason="FAISS is not installed")
    return FaissStore()


@functools.cache
def engines():
    """A folder, and a Milvus Lite in it; both are gone when the module's tests are done."""
    folder = tempfile.TemporaryDirectory(prefix="engines_")
    return folder, import_pymilvus().MilvusClient(f"{folder.name}/vectors.db")


@pytest.fixture(scope="module", autouse=True)
def ended_engines():
    yield
    if engines.cache_info().currsize:
        folder, milvus = engines()
        milvus.close()
        folder.cleanup()
        engines.cache_clear()


def make_lance():
    return LanceStore(f"{engines()[0].name}/{uuid.uuid4().hex}")


def make_milvus():
    return MilvusStore(engines()[1], f"c{uuid.uuid4().hex}", exact=True)


def make_memory():
    client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    return QdrantStore(client.QdrantClient(":memory:"), "documents")


STORES = [make_faiss, make_lance, make_milvus, make_memory]
DATABASES = [make_lance, make_milvus, make_memory]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a real server: QDRANT_URL, or that of a `qdrant` on the PATH, started for these tests."""
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    if os.environ.get("QDRANT_URL"):
        yield os.environ["QDRANT_URL"]
        return
    program = shutil.which("qdrant")
    if program is None:
        pytest.skip("no Qdrant server: neither QDRANT_URL nor a qdrant program")
    folder = tmp_path_factory.mktemp("qdrant")
    ports = [free_port(), free_port()]
    settings_ = {"SERVICE__HTTP_PORT": ports[0], "SERVICE__GRPC_PORT": ports[1], "STORAGE__STORAGE_PATH": folder}
    environment = os.environ | {f"QDRANT__{name}": str(value) for name, value in settings_.items()}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports[0]}"
        wait_for(f"{url}/readyz")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(url, seconds=30):
    for _ in range(seconds * 10):
        try:
            urllib.request.urlopen(url, timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{url} does not answer")


@pytest.mark.slow
@pytest.mark.parametrize("make", STORES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 7, 20, 50]), prior=st.floats(-1, 1))
def test_a_store_ranks_as_the_exact_index_does(make, seed, k, prior):
    documents, queries = draw(seed)
    store, index, stats = fill(make(), documents), exact_index(documents), make_stats(seed)
    index.use(stats)
    expected = index.search(queries, k, prior={"image": prior})
    assert_same(ranking.search(store, stats, queries, k, prior={"image": prior}), expected)
    if hasattr(store, "search"):
        hits = store.search(stats, queries, k, prior={"image": prior})
        assert_same(hits, expected)
        np.testing.assert_allclose(hits.score, expected.score, atol=1e-5)
        by_id = {x: name for name in NAMES for x in ids_of(name)}
        assert [[by_id[x] for x in line] for line in hits.ids] == hits.modality.tolist()


@pytest.mark.parametrize("make", STORES)
def test_a_store_is_fitted_as_the_exact_index_is(make):
    documents, queries = draw(0)
    store, index = fill(make(), documents), exact_index(documents)
    exclude = [[ids[0]] for ids in index.store.topk(queries, 1, "text")[0]]
    index.fit(queries, exclude=exclude)
    stats = ranking.fit(store, queries, exclude)
    assert (stats.modalities, stats.pool_sizes) == (index.stats.modalities, index.stats.pool_sizes)
    np.testing.assert_allclose(stats.mean, index.stats.mean, atol=1e-5)
    np.testing.assert_allclose(stats.std, index.stats.std, atol=1e-5)


def test_a_real_server_ranks_as_the_exact_index_does(server):
    from qdrant_client import QdrantClient

    documents, queries = draw(1)
    client, name = QdrantClient(url=server), f"vacsr-test-{uuid.uuid4()}"
    store, index = QdrantStore(client, name, exact=True), exact_index(documents)
    try:
        fill(store, documents)
        index.fit(queries)
        stats = ranking.fit(store, queries)
        np.testing.assert_allclose(stats.mean, index.stats.mean, atol=1e-5)
        for options in ({}, {"prior": {"image": 0.7}}, {"per_modality_k": {"text": 3}}):
            expected = index.search(queries, 12, **options)
            assert_same(store.search(stats, queries, 12, **options), expected)
            assert_same(ranking.search(store, stats, queries, 12, **options), expected)
    finally:
        client.delete_collection(name)
        client.close()


def test_the_server_takes_limits_and_answers_one_request():
    documents, queries = draw(2)
    store, stats = fill(make_memory(), documents), make_stats(2)
    expected = ranking.search(store, stats, queries, 6, per_modality_k={"image": 1})
    store.search(stats, queries, 1)  # looks up the size of the vectors
    asked = []
    ask = store.client.query_batch_points
    store.client.query_batch_points = lambda name, requests: asked.append(len(requests)) or ask(name, requests)
    store.client.count = store.client.facet = store.client.get_collection = None
    assert_same(store.search(stats, queries, 6, per_modality_k={"image": 1}), expected)
    assert asked == [6]


def test_a_collection_with_other_payload_keys_can_be_searched():
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    from qdrant_client import QdrantClient, models

    documents, queries = draw(3)
    client = QdrantClient(":memory:")
    client.create_collection("mine", vectors_config=models.VectorParams(size=D, distance=models.Distance.COSINE))
    points = [
        models.PointStruct(id=i, vector=vector.tolist(), payload={"kind": name, "sku": x, "price": 3})
        for i, (name, x, vector) in enumerate(
            (name, x, vector) for name in NAMES for x, vector in zip(ids_of(name), documents[name], strict=True)
        )
    ]
    client.upsert("mine", points)
    store = QdrantStore(client, "mine", modality_key="kind", id_key="sku")
    stats = ranking.fit(store, queries)
    assert_same(store.search(stats, queries, 9), ranking.search(exact_index(documents).store, stats, queries, 9))


def test_an_approximate_index_of_faiss_is_taken_as_it_is():
    faiss = pytest.importorskip("faiss", reason="FAISS is not installed")
    documents, queries = draw(4)
    hnsw = faiss.IndexHNSWFlat(D, 16, faiss.METRIC_INNER_PRODUCT)
    hnsw.add(documents["text"])
    store = FaissStore(lambda d: faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, 2, faiss.METRIC_INNER_PRODUCT))
    store.adopt(hnsw, ids_of("text"), "text")
    store.add(documents["image"], ids_of("image"), "image")  # trains the IVF index
    assert (store.modalities, store.count("text"), store.count("image")) == (("text", "image"), 30, 20)
    stats = ranking.fit(store, queries)
    hits = ranking.search(store, stats, queries, 5)
    assert set(hits.modality.ravel()) <= {"text", "image"}
    with pytest.raises(ValueError, match=r"raise its nprobe"):
        store.topk(queries, 20, "image")


@pytest.mark.parametrize("make", STORES)
def test_what_does_not_fit_is_refused(make):
    store = fill(make(), draw(0)[0])
    good = np.ones((1, D), np.float32)
    with pytest.raises(ValueError, match=r"k: got 31"):
        store.topk(good, 31, "text")
    with pytest.raises(ValueError, match=r"queries: got 3 numbers each, expected 8"):
        store.topk(good[:, :3], 1, "text")
    with pytest.raises(ValueError, match=r"queries: not finite"):
        store.topk(good * np.nan, 1, "text")
    with pytest.raises(ValueError, match=r"ids: 'a' occurs twice"):
        store.add(np.ones((2, D), np.float32), ["a", "a"], "text")
    with pytest.raises(ValueError, match=r"3 numbers each, expected 8|8 numbers, Cosine; expected 3"):  # Qdrant's
        store.add(good[:, :3], ["a"], "text")
    assert store.count("text") == 30


def test_faiss_of_another_metric_is_refused():
    faiss = pytest.importorskip("faiss", reason="FAISS is not installed")
    with pytest.raises(ValueError, match="expected the metric METRIC_INNER_PRODUCT"):
        FaissStore().adopt(faiss.IndexFlatL2(D), [], "text")


def test_an_empty_qdrant():
    store = make_memory()
    assert (store.modalities, store.count("text")) == ((), 0)
    with pytest.raises(ValueError, match="Qdrant has no collection 'documents'"):
        store.topk(np.ones((1, D), np.float32), 1, "text")


METADATA = [
    {"kind": 'it\'s "odd"' if i % 2 else "even", "rest": i % 3, "small": i < 9} for i in range(max(SIZES.values()))
]
FILTERS = [
    {"kind": 'it\'s "odd"'},
    {"rest": [0, 2], "kind": "even"},
    {"small": True},
]


def fill_with_metadata(store, documents):
    for name, vectors in documents.items():
        store.add(vectors, ids_of(name), name, metadata=METADATA[: len(vectors)])
    return store


@pytest.mark.parametrize("make", STORES)
def test_a_filter_leaves_the_same_documents_out_of_every_store(make):
    documents, queries = draw(5)
    store, index = (
        fill_with_metadata(make(), documents),
        fill_with_metadata(MixedIndex(devices=jax.devices()[:1]), documents),
    )
    index.use(make_stats(5))
    for where in FILTERS:
        wanted = {
            x
            for name in NAMES
            for x, fields in zip(ids_of(name), METADATA, strict=False)
            if all(fields[key] in (one if isinstance(one, list) else [one]) for key, one in where.items())
        }
        view = store.filtered(where)
        counts = {name: sum(x.startswith(name) for x in wanted) for name in NAMES}
        assert {name: view.count(name) for name in NAMES} == counts
        assert sorted(view.modalities) == sorted(NAMES)
        expected = index.search(queries, len(wanted), where=where)
        assert set(expected.ids[0]) == wanted
        assert_same(ranking.search(view, index.stats, queries, len(wanted)), expected)
        few = index.search(queries, 4, where=where)
        assert_same(
            (view.search if hasattr(view, "search") else functools.partial(ranking.search, view))(
                index.stats, queries, 4
            ),
            few,
        )
        with pytest.raises(ValueError, match="k: got"):
            ranking.search(view, index.stats, queries, len(wanted) + 1)
    nobody = store.filtered({"kind": "nobody"})
    assert (nobody.modalities, nobody.count("text")) == ((), 0)
    assert len(store.filtered({"rest": 1}).filtered({"small": False}).modalities) == 2


def test_a_filter_may_be_in_the_language_of_the_database():
    documents, queries = draw(6)
    from qdrant_client import models

    between = models.Filter(must=[models.FieldCondition(key="rest", range=models.Range(gte=1))])
    for make, where in ((make_lance, "rest >= 1"), (make_milvus, "rest >= 1"), (make_memory, between)):
        view = fill_with_metadata(make(), documents).filtered(where)
        assert [view.count(name) for name in NAMES] == [13, 20]
        assert all(int(x.split("/")[1]) % 3 for x in view.topk(queries, 13, "image")[0].ravel())


def test_a_filter_that_says_nothing_is_refused():
    for where, message in (
        ({}, "got no key"),
        ({"a b": 1}, "got the key 'a b', expected a name"),
        ({"a": 1.5}, "got 1.5 for a"),
        ({"a": []}, "got None for a"),
    ):
        for make in STORES:
            with pytest.raises(ValueError, match=message):
                make().filtered(where)
    with pytest.raises(ValueError, match="expected a mapping such as"):
        make_faiss().filtered("a = 1")
    with pytest.raises(ValueError, match="got the key 'id', expected a name other than id, modality"):
        make_lance().add(np.ones((1, D), np.float32), ["a"], "text", metadata=[{"id": 3}])


@pytest.mark.parametrize("make", DATABASES)
def test_a_database_replaces_and_gives_back_and_forgets(make):
    store, vectors = make(), np.eye(D, dtype=np.float32)
    assert (store.dim, store.modalities, store.count("text")) == (None, (), 0)
    assert (store.known(["a"]), store.vectors(["a"])) == ({}, {})
    with pytest.raises(ValueError, match=r"has no (collection|table)"):
        store.topk(vectors[:1], 1, "text")
    store.add(2 * vectors[:3], list("abc"), "text", contents=["A", None, "C"])
    store.add(vectors[3:4], ["b"], "image", metadata=[{"new": 7}])
    store.settle()
    assert (store.dim, store.modalities, store.count("text")) == (D, ("image", "text"), 2)
    assert store.known(["a", "b", "x"]) == {"a": ("text", "A"), "b": ("image", None)}
    found = store.vectors(["b", "c", "x"])
    np.testing.assert_allclose([found["b"], found["c"]], vectors[[3, 2]], atol=1e-6)
    assert len(found) == 2
    assert store.filtered({"new": 7}).topk(vectors[:1], 1, "image")[0].tolist() == [["b"]]
    store.drop()
    assert (store.dim, store.count("text")) == (None, 0)
