"""Indexes of FAISS and collections of Qdrant that people bring: what is taken as it is, and what is refused."""

import numpy as np
import pytest

from tests.search.stores.test_vector_stores import D, make_stats
from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search.standardize import ranking
from vacsr_jax.search.stores import FaissStore, QdrantStore


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="FAISS is not installed")


def units(n, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, D)))[0]


LABELS = np.array([7, 3, 1000, 5, 2**40, 0, 99, 12, 4, 8])
WRAPPED = {
    "IndexIDMap": lambda f: f.IndexIDMap(f.IndexFlatIP(D)),
    "IndexIDMap2": lambda f: f.IndexIDMap2(f.IndexFlatIP(D)),
    "IDMap of HNSW": lambda f: f.index_factory(D, "IDMap,HNSW16,Flat", f.METRIC_INNER_PRODUCT),
    "IDMap of L2norm": lambda f: f.index_factory(D, "IDMap2,L2norm,Flat", f.METRIC_INNER_PRODUCT),
    "IDMap in a transformation": lambda f: f.IndexPreTransform(
        f.NormalizationTransform(D, 2.0), f.IndexIDMap(f.IndexFlatIP(D))
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_index_with_labels_finds_the_documents_that_were_added(name, faiss):
    vectors, ids = units(10), [f"d{i}" for i in range(10)]
    index = WRAPPED[name](faiss)
    index.add_with_ids(vectors, LABELS)
    for given in (ids, dict(zip(LABELS.tolist(), ids, strict=True)), dict(zip(map(str, LABELS), ids, strict=True))):
        store = FaissStore()
        store.adopt(index, given, "text")
        assert [x for (x,) in store.topk(vectors, 1, "text")[0]] == ids
    more = units(3, seed=1)
    store.add(more, ["e0", "e1", "e2"], "text")
    assert [x for (x,) in store.topk(np.concatenate([vectors, more]), 1, "text")[0]] == [*ids, "e0", "e1", "e2"]


def test_a_store_can_make_indexes_with_labels(faiss):
    store = FaissStore(lambda d: faiss.IndexIDMap2(faiss.IndexFlatIP(d)))
    vectors = units(9)
    store.add(vectors[:4], list("abcd"), "text")
    store.add(vectors[4:], list("efghi"), "text")
    assert [x for (x,) in store.topk(vectors, 1, "text")[0]] == list("abcdefghi")


def test_an_inverted_file_with_labels_needs_them(faiss):
    vectors, ids = units(10), [f"d{i}" for i in range(10)]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, 2, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.nprobe = 2
    index.add_with_ids(vectors, LABELS)
    with pytest.raises(ValueError, match=r"does not keep the order .* give a dict of label -> id"):
        FaissStore().adopt(index, ids, "text")
    store = FaissStore()
    store.adopt(index, dict(zip(LABELS.tolist(), ids, strict=True)), "text")
    assert [x for (x,) in store.topk(vectors, 1, "text")[0]] == ids
    with pytest.raises(ValueError, match="a vector of label 12, which is not among the ids"):
        FaissStore().adopt(index, dict(enumerate(ids)), "text")


def test_shards_are_taken_as_they_are_numbered(faiss):
    vectors = units(10)
    parts = [faiss.IndexFlatIP(D) for _ in range(2)]
    shards = faiss.IndexShards(D, False, True)
    for part, rows in zip(parts, (vectors[:6], vectors[6:]), strict=True):
        part.add(rows)
        shards.add_shard(part)
    store = FaissStore()
    store.adopt(shards, [f"d{i}" for i in range(10)], "text")
    assert [x for (x,) in store.topk(vectors, 1, "text")[0]] == [f"d{i}" for i in range(10)]
    with pytest.raises(ValueError, match="renumbers documents at each add"):
        store.add(units(1), ["e"], "text")
    clash = faiss.IndexShards(D, False, False)
    for part in parts:
        clash.add_shard(part)
    with pytest.raises(ValueError, match=r"dict of label|several vectors have one label"):
        FaissStore().adopt(clash, [f"d{i}" for i in range(10)], "text")


def strange_faiss(f):
    """What an index may be besides exact inner products of unit vectors, and what is said of it."""
    long = f.IndexFlatIP(D)
    long.add(5 * units(10))
    twice = f.IndexIDMap(f.IndexFlatIP(D))
    twice.add_with_ids(units(10), np.zeros(10, np.int64))
    l2 = f.IndexIDMap(f.IndexFlatL2(D))
    l2.add_with_ids(units(10), LABELS)
    return {
        "long": (long, "its vectors have lengths of 5 to 5, expected 1"),
        "one label": (twice, "several vectors have one label"),
        "L2": (l2, "expected the metric METRIC_INNER_PRODUCT"),
        "binary": (f.IndexBinaryFlat(D), "got IndexBinaryFlat, expected an index of float vectors"),
        "LSH": (f.IndexLSH(D, 16), "expected the metric METRIC_INNER_PRODUCT"),
        "nothing": (None, "got NoneType"),
    }


@pytest.mark.parametrize("name", ["long", "one label", "L2", "binary", "LSH", "nothing"])
def test_an_index_that_would_rank_wrongly_is_refused(name, faiss):
    index, message = strange_faiss(faiss)[name]
    with pytest.raises(ValueError, match=message):
        FaissStore().adopt(index, [f"d{i}" for i in range(10)], "text")


def test_quantized_vectors_are_unit_enough(faiss):
    vectors = units(300)
    for kind in ("SQ8", "PQ4x4", "PCA4,Flat", "SQ8,RFlat", "IVF2,SQ8"):
        index = faiss.index_factory(D, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        store = FaissStore()
        store.adopt(index, [f"d{i}" for i in range(300)], "text")
        assert store.topk(vectors[:3], 1, "text")[0].shape == (3, 1)


def test_an_index_that_was_changed_behind_the_store_is_noticed(faiss):
    store = FaissStore()
    store.add(units(5), list("abcde"), "text")
    store.indexes["text"].remove_ids(np.array([0]))
    with pytest.raises(ValueError, match="FAISS has 4 text vectors for 5 ids; adopt the index again"):
        store.topk(units(1), 1, "text")


@pytest.fixture
def qdrant():
    client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    return client.QdrantClient(":memory:"), client.models


def put(client, m, name, vectors, payloads, **config):
    config.setdefault("vectors_config", m.VectorParams(size=D, distance=m.Distance.COSINE))
    client.create_collection(name, **config)
    points = zip(vectors, payloads, strict=True)
    client.upsert(name, [m.PointStruct(id=i, vector=v, payload=p) for i, (v, p) in enumerate(points)])


PAYLOADS = [{"id": f"d{i}", "modality": "text" if i % 2 else "image"} for i in range(6)]


def entries(store, query):
    """Every way into a store."""
    stats = make_stats(0)
    return {
        "topk": lambda: store.topk(query, 1, "text"),
        "count": lambda: store.count("text"),
        "modalities": lambda: store.modalities,
        "search": lambda: store.search(stats, query, 1),
        "add": lambda: store.add(query, ["new"], "text"),
    }


@pytest.mark.parametrize("entry", ["topk", "count", "modalities", "search", "add"])
@pytest.mark.parametrize("distance", ["EUCLID", "MANHATTAN", "DOT"])
def test_a_collection_of_another_distance_is_refused_on_every_entry(distance, entry, qdrant):
    client, m = qdrant
    config = m.VectorParams(size=D, distance=m.Distance[distance])
    put(client, m, "mine", units(6).tolist(), PAYLOADS, vectors_config=config)
    with pytest.raises(ValueError, match=f"its distance is {distance.capitalize()}, whose scores are no cosines"):
        entries(QdrantStore(client, "mine"), units(1))[entry]()


def test_named_vectors_are_searched_by_name(qdrant):
    client, m = qdrant
    config = {
        "clip": m.VectorParams(size=D, distance=m.Distance.COSINE),
        "other": m.VectorParams(size=3, distance=m.Distance.EUCLID),
    }
    vectors = units(6)
    named = [{"clip": x.tolist(), "other": [1.0, 0.0, 0.0]} for x in vectors]
    sparse = {"words": m.SparseVectorParams()}
    put(client, m, "mine", named, PAYLOADS, vectors_config=config, sparse_vectors_config=sparse)
    store = QdrantStore(client, "mine", vector="clip")
    assert store.modalities == ("image", "text")
    assert store.topk(vectors[1:2], 1, "text")[0].tolist() == [["d1"]]
    hits = store.search(ranking.fit(store, vectors), vectors[:2], 1)
    assert hits.ids.tolist() == [["d0"], ["d1"]]
    more = units(1, seed=3)
    store.add(more, ["new"], "text")
    assert store.topk(more, 1, "text")[0].tolist() == [["new"]]
    for name, message in (
        ("", "vectors are named clip, other .and the sparse words"),
        ("title", "are named clip, other"),
    ):
        with pytest.raises(ValueError, match=message):
            QdrantStore(client, "mine", vector=name).topk(vectors, 1, "text")
    with pytest.raises(ValueError, match="its distance is Euclid"):
        QdrantStore(client, "mine", vector="other").topk(vectors, 1, "text")


def test_one_named_vector_needs_no_name_and_a_new_collection_may_have_one(qdrant):
    client, _ = qdrant
    vectors = units(4)
    QdrantStore(client, "mine", vector="clip").add(vectors, list("abcd"), "text")
    assert QdrantStore(client, "mine").topk(vectors, 1, "text")[0].tolist() == [["a"], ["b"], ["c"], ["d"]]
    QdrantStore(client, "plain").add(vectors, list("abcd"), "text")
    with pytest.raises(ValueError, match="its vectors have no names; leave vector='clip' out"):
        QdrantStore(client, "plain", vector="clip").count("text")


def test_collections_without_one_embedding_a_point_are_refused(qdrant):
    client, m = qdrant
    client.create_collection("sparse", vectors_config={}, sparse_vectors_config={"words": m.SparseVectorParams()})
    with pytest.raises(ValueError, match=r"its vectors are named none \(and the sparse words, which hold no"):
        QdrantStore(client, "sparse").topk(units(1), 1, "text")
    comparator = m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM)
    config = m.VectorParams(size=D, distance=m.Distance.COSINE, multivector_config=comparator)
    client.create_collection("tokens", vectors_config=config)
    with pytest.raises(ValueError, match="each point has several vectors"):
        QdrantStore(client, "tokens").topk(units(1), 1, "text")


def test_points_without_our_payload_are_named(qdrant):
    client, m = qdrant
    vectors = units(6)
    put(client, m, "bare", vectors.tolist(), [None] * 6)
    with pytest.raises(ValueError, match="its points have no payload 'modality'; name another modality_key"):
        _ = QdrantStore(client, "bare").modalities
    without_ids = [{"modality": "text"}] * 6
    put(client, m, "no ids", vectors.tolist(), without_ids)
    store = QdrantStore(client, "no ids")
    with pytest.raises(ValueError, match=r"its points have no payload 'id' \(point \d\); name another key"):
        store.topk(vectors[:1], 1, "text")
    with pytest.raises(ValueError, match=r"its points have no payload 'id'"):
        store.search(make_stats(0), vectors[:1], 1)
    put(client, m, "some", vectors.tolist(), [*PAYLOADS[:4], {"id": "x"}, None])
    with pytest.warns(UserWarning, match="2 of 6 points have no payload 'modality' and are never found"):
        assert QdrantStore(client, "some").modalities == ("image", "text")


def test_a_payload_may_be_nested(qdrant):
    """As LangChain and LlamaIndex write it."""
    client, m = qdrant
    vectors = units(6)
    payloads = [{"page_content": "...", "metadata": {"source": p["id"], "kind": p["modality"]}} for p in PAYLOADS]
    put(client, m, "mine", vectors.tolist(), payloads)
    store = QdrantStore(client, "mine", id_key="metadata.source", modality_key="metadata.kind")
    assert store.modalities == ("image", "text")
    assert store.topk(vectors[1:2], 1, "text")[0].tolist() == [["d1"]]
    store.add(units(1, seed=5), ["new"], "text")
    assert store.topk(units(1, seed=5), 1, "text")[0].tolist() == [["new"]]


def test_values_that_cannot_be_listed_say_how_to_make_an_index(qdrant):
    client, m = qdrant
    put(client, m, "mine", units(6).tolist(), PAYLOADS)

    def refuse(*args, **kwargs):
        raise RuntimeError("Bad request: Index required but not found")

    client.facet = refuse
    with pytest.raises(ValueError, match=r"cannot be listed .*create_payload_index\('mine', 'modality', 'keyword'\)"):
        _ = QdrantStore(client, "mine").modalities
