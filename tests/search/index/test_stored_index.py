"""An index whose documents are in a database is the index, whatever the database; and it never takes another's."""

import json

import jax
import numpy as np
import pytest

from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.index.sample import Sample
from vacsr_jax.search.index.stored import StoredIndex, marker
from vacsr_jax.search.stores.address import read_address

D, N = 8, 12
PLACES = {"lance": "lance:{}/vectors", "milvus": "milvus:{}/vectors.db", "qdrant": "qdrant:{}/vectors"}
rng = np.random.default_rng(0)
vectors = {
    name: unit_rows(rng.normal(size=(N, D)).astype(np.float32) + shift)[0]
    for name, shift in (("image", 0), ("text", 1))
}
queries = rng.normal(size=(6, D)).astype(np.float32)
METADATA = [{"even": i % 2 == 0} for i in range(N)]


def fill(index):
    for name, x in vectors.items():
        ids = [f"{name}/{i}" for i in range(N)]
        index.add(x, ids, name, [f"the {x}" for x in ids] if name == "text" else None, METADATA)
    index.fit(queries)
    index.about["model"] = "mine"
    return index


@pytest.fixture(scope="module")
def expected():
    return fill(MixedIndex("clip", jax.devices()[:1]))


def same(hits, others):
    assert hits.ids.tolist() == others.ids.tolist()
    assert hits.modality.tolist() == others.modality.tolist()
    for name in ("score", "z"):
        np.testing.assert_allclose(getattr(hits, name), getattr(others, name), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
def test_it_is_the_index(kind, tmp_path, expected):
    folder, address = tmp_path / "index", PLACES[kind].format(tmp_path)
    built = fill(StoredIndex.begin(folder, address, "clip"))
    built.save(folder)
    built.close()
    assert not marker(folder).exists()
    index = MixedIndex.load(folder, model_id="clip")
    assert isinstance(index, StoredIndex)
    assert (len(index), index.about, index.model_id) == (2 * N, {"model": "mine"}, "clip")
    np.testing.assert_allclose(index.stats.mean, expected.stats.mean, atol=1e-5)
    for options in ({}, {"prior": {"image": 0.5}}, {"per_modality_k": {"text": 2}}, {"where": {"even": True}}):
        same(index.search(queries, 8, **options), expected.search(queries, 8, **options))
    hits = index.search(queries, 3)
    assert {index.contents.get(x) for x in hits.ids.ravel()} == {expected.contents.get(x) for x in hits.ids.ravel()}
    assert index.known(["text/3", "none"]) == {"text/3": ("text", "the text/3")} == expected.known(["text/3", "none"])
    ids = ["image/7", "image/2"]
    np.testing.assert_allclose(index.vectors_of(ids, "image"), expected.vectors_of(ids, "image"), atol=1e-4)
    assert index.diagnose(k=3).rows()[0][0][1] == N
    more = unit_rows(rng.normal(size=(2, D)).astype(np.float32))[0]
    grown = fill(MixedIndex("clip", jax.devices()[:1]))
    for one in (index, grown):
        one.add(more, ["new/0", "new/1"], "image")
    np.testing.assert_allclose(index.stats.mean, grown.stats.mean, atol=1e-5)
    index.save(folder)
    same(index.search(queries, 8), grown.search(queries, 8))
    index.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLACES)
def test_an_index_is_replaced_when_the_new_one_is_whole(kind, tmp_path):
    folder, address = tmp_path / "index", PLACES[kind].format(tmp_path)
    killed = StoredIndex.begin(folder, address)
    killed.add(vectors["text"], [f"half/{i}" for i in range(N)], "text")
    killed.close()  # without `save`, as a killed process
    for collection in ("documents", "documents_2", "documents"):
        index = StoredIndex.begin(folder, address)
        assert index.address.collection == collection
        index.add(vectors["text"], [f"{i}" for i in range(N)], "text")
        if collection == "documents_2":  # the old one serves until then
            assert json.loads((folder / "index.json").read_text())["store"] == str(read_address(address))
        index.save(folder)
        assert index.known(["half/0", "0"]) == {"0": ("text", None)}
        index.close()
        again = MixedIndex.load(folder)
        assert again.search(vectors["text"][:1], 1).ids.tolist() == [["0"]]
        again.close()
    with pytest.raises(ValueError, match=r"exists and is not of the index .*name another collection with #NAME"):
        StoredIndex.begin(tmp_path / "other", address)
    there = StoredIndex.of_existing(address)
    there.fit(queries)
    there.save(tmp_path / "other")
    assert not there.owned
    there.close()
    assert len(MixedIndex.load(tmp_path / "other")) == N


def test_a_store_of_another_index_is_refused(tmp_path):
    folder, address = tmp_path / "index", f"lance:{tmp_path}/vectors"
    fill(StoredIndex.begin(folder, address, "clip")).save(folder)
    with pytest.raises(ValueError, match="index of model 'clip', asked for 'siglip'"):
        MixedIndex.load(folder, model_id="siglip")

    def put(vectors, ids):
        store = StoredIndex.of_existing(address).store
        store.drop()
        store.add(vectors, ids, "image")

    ids = [f"image/{i}" for i in range(N)]
    for given, names, message in (
        (vectors["image"][:, :5], ids, "whose vectors have 5 numbers, expected 8; it is of another index"),
        (vectors["image"], [f"x{i}" for i in range(N)], "which has no image 'image/.*; it is of another index"),
        (vectors["image"][::-1], ids, "has another vector; it is of another index, or another model"),
    ):
        put(given, names)
        with pytest.raises(ValueError, match=message):
            MixedIndex.load(folder)
    StoredIndex.of_existing(address).store.drop()
    with pytest.raises(ValueError, match="vectors has no collection 'documents'"):
        MixedIndex.load(folder)
    (tmp_path / "vectors").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="vectors is not there"):
        MixedIndex.load(folder)
    header = json.loads((folder / "index.json").read_text())
    for change, message in (({"stats": 3}, "cannot be read"), ({"store": "x:y"}, "expected lance:PATH")):
        (folder / "index.json").write_text(json.dumps(header | change))
        with pytest.raises(ValueError, match=message):
            MixedIndex.load(folder)
    del header["owned"]
    (folder / "index.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"index.json has no owned\); build it again"):
        MixedIndex.load(folder)


@pytest.mark.slow
def test_milvus_lite_loses_no_document(tmp_path):
    """Its own choice of an index does, from a few hundred documents on, where a search is filtered."""
    index = StoredIndex.begin(tmp_path / "index", PLACES["milvus"].format(tmp_path), "clip")
    for name in ("image", "text"):
        index.add(np.random.default_rng(len(name)).normal(size=(250, D)), [f"{name}/{i}" for i in range(250)], name)
    index.fit(queries)
    index.save(tmp_path / "index")  # which makes it build the index
    found = index.search(queries, 500)
    assert all(len(set(ids)) == 500 for ids in found.ids.tolist())
    index.close()


def test_a_sample_is_the_same_in_any_order(monkeypatch):
    monkeypatch.setattr("vacsr_jax.search.index.sample.SAMPLE", 5)
    x, ids = rng.normal(size=(20, D)).astype(np.float32), [str(i) for i in range(20)]
    at_once, in_parts = Sample(), Sample()
    at_once.see(x, ids, "text")
    for i in (3, 1, 0, 2):
        rows = slice(5 * i, 5 * i + 5)
        in_parts.see(x[rows], ids[rows], "text")
    assert list(at_once.of["text"]) == list(in_parts.of["text"])
    assert len(at_once.of["text"]) == 5
    first = next(iter(at_once.of["text"]))
    at_once.see(x[:1] + 1, [first], "image")  # it is an image now
    assert first not in at_once.of["text"]
    np.testing.assert_array_equal(at_once.of["image"][first], x[0] + 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faiss:here", "got 'faiss:here', expected lance:PATH"),
        ("lance:", "expected lance:PATH"),
        ("milvus:here", "which Milvus Lite wants to end in .db"),
    ],
)
def test_an_address_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_address(text)


def test_a_database_that_does_not_answer_is_named(tmp_path):
    for address in ("qdrant:http://127.0.0.1:9", "milvus:http://127.0.0.1:9"):
        with pytest.raises(
            OSError, match=r"^(Qdrant, collection documents|Milvus at http://127.0.0.1:9): .*[Cc]onnect"
        ):
            StoredIndex.begin(tmp_path / "index", address)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    import sys

    for package, address, extra in (
        ("lancedb", "lance:{}/a", "lance"),
        ("milvus_lite", "milvus:{}/a.db", "milvus"),
        ("qdrant_client", "qdrant:http://localhost:1", "search"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ValueError, match=rf'not installed; pip install "vacsr_jax\[{extra}\]"'):
                StoredIndex.begin(tmp_path / "index", address.format(tmp_path))
