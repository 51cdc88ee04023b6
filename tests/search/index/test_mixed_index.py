"""The index grows, saves, loads and diagnoses itself; test_exact and test_ranking test the search itself."""

import json
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vacsr_jax.search.index import MixedIndex, codes
from vacsr_jax.search.standardize import statistics as S

D = 16
IMAGES, TEXTS, QUERIES = 60, 90, 40


def draw(n, seed, shift):
    """Vectors around a direction of their modality: texts lie near the queries, images do not."""
    axis = np.zeros(D)
    axis[0] = shift
    return (np.random.default_rng(seed).normal(size=(n, D)) + axis).astype(np.float32)


images, texts, queries = draw(IMAGES, 0, -3), draw(TEXTS, 1, 3), draw(QUERIES, 2, 3)
image_ids, text_ids = [f"i{k}" for k in range(IMAGES)], [f"t{k}" for k in range(TEXTS)]


def build(devices=None, **options):
    index = MixedIndex("clip", devices or jax.devices()[:1], **options)
    index.add(images, image_ids, "image", contents=[f"{x}.png" for x in image_ids])
    index.add(texts, text_ids, "text")
    return index


@pytest.fixture(scope="module")
def index():
    index = build()
    index.fit(queries)
    return index


def same(hits, others):
    assert (hits.ids == others.ids).all()
    np.testing.assert_allclose(hits.z, others.z, atol=1e-4)


def assert_equal_stats(a, b):
    assert (a.query_modalities, a.model_id) == (b.query_modalities, b.model_id)
    assert dict(zip(a.modalities, a.pool_sizes, strict=True)) == dict(zip(b.modalities, b.pool_sizes, strict=True))
    columns = [b.modalities.index(name) for name in a.modalities]
    for name in ("count", "mean", "m2"):
        np.testing.assert_allclose(getattr(a, name), np.asarray(getattr(b, name))[:, columns], atol=1e-6)


def test_standardization_lets_images_in(index):
    raw = MixedIndex("clip", jax.devices()[:1], stats=S.empty(("image", "text"), model_id="clip"))
    raw.store = index.store
    assert (raw.search(queries, 10).modality == "text").all()
    share = (index.search(queries, 10).modality == "image").mean()
    assert 0.3 < share < 0.7


@pytest.mark.slow
def test_an_index_that_grew_is_one_that_was_fitted_at_the_end(index):
    grown = MixedIndex("clip", jax.devices()[:1])
    grown.add(texts[:1], text_ids[:1], "text")
    grown.fit(queries)
    grown.add(images[:50], image_ids[:50], "image")
    both = np.concatenate([texts[1:], images[50:]])
    grown.add(both, text_ids[1:] + image_ids[50:], ["text"] * (TEXTS - 1) + ["image"] * 10)
    assert_equal_stats(grown.stats, index.stats)
    same(grown.search(queries, 20), index.search(queries, 20))


def test_growing_reads_new_documents_only(index, monkeypatch):
    grown = build()
    grown.fit(queries)
    asked = []
    monkeypatch.setattr(type(grown.store), "topk", lambda self, q, k, m: asked.append(self) or (
        np.full((len(q), 1), "x", object), np.full((len(q), 1), 0.5, np.float32)))  # fmt: skip
    grown.add(draw(3, 9, 0), ["a", "b", "c"], "image")
    assert [store.count("image") for store in asked] == [3]


@pytest.mark.slow
def test_two_devices_rank_as_one_does(index):
    sharded = build(jax.devices()[:2])
    sharded.fit(queries)
    assert_equal_stats(sharded.stats, index.stats)
    same(sharded.search(queries, 20), index.search(queries, 20))


@pytest.mark.slow
def test_documents_as_queries_do_not_find_themselves():
    index = build()
    index.fit(texts, exclude=[[x] for x in text_ids])
    cosines = (texts / np.linalg.norm(texts, axis=1, keepdims=True)) @ (
        texts / np.linalg.norm(texts, axis=1)[:, None]
    ).T
    np.fill_diagonal(cosines, -1)
    assert float(index.stats.mean[0, 1]) == pytest.approx(cosines.max(axis=1).mean(), abs=1e-3)
    assert index.diagnose(k=1).top1["text"].max() < 0.99
    own = index.diagnose(texts, k=1).share["text"]  # not excluded, each text finds itself
    assert own == 1
    assert index.diagnose(k=1).share["text"] < 1
    index.add(texts[:2] + 1e-3, ["copy0", "copy1"], "text")  # near-duplicates that are not excluded
    assert index.fits["text"].top1["text"][:2].min() > 0.999


def test_queries_of_each_modality_have_their_own_scale():
    index = build()
    index.fit(queries)
    index.fit(images, "image", exclude=[[x] for x in image_ids])
    assert index.stats.query_modalities == ("text", "image")
    assert float(index.stats.mean[0, 1]) > float(index.stats.mean[0, 0])
    assert float(index.stats.mean[1, 1]) < float(index.stats.mean[1, 0])
    assert (index.search(images, 10, query_modality="image").modality == "text").any()


def test_a_saved_index_is_the_index(index, tmp_path):
    index.save(tmp_path / "new" / "index")
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        loaded = MixedIndex.load(tmp_path / "new" / "index", model_id="clip", devices=devices)
        assert_equal_stats(loaded.stats, index.stats)
        same(loaded.search(queries, 20), index.search(queries, 20))
        assert loaded.contents == {x: f"{x}.png" for x in image_ids}
    again, there = build(), MixedIndex.load(tmp_path / "new" / "index", devices=jax.devices()[:1])
    again.fit(queries)
    for grown in (again, there):  # it can still grow
        grown.add(draw(3, 9, 0), ["a", "b", "c"], "image")
    assert_equal_stats(there.stats, again.stats)
    there.save(tmp_path / "new" / "index")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index"]
    assert len(MixedIndex.load(tmp_path / "new" / "index")) == IMAGES + TEXTS + 3


def test_an_index_of_many_blocks_is_read_on_other_devices(tmp_path, monkeypatch):
    monkeypatch.setattr("vacsr_jax.search.index.exact.BLOCK", 256)
    index = MixedIndex(devices=jax.devices()[:1])
    index.add(draw(700, 5, 0), [str(i) for i in range(700)], "text")
    index.save(tmp_path / "index")
    assert len(list((tmp_path / "index").glob("vectors-0-*"))) == 3
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        store = MixedIndex.load(tmp_path / "index", devices=devices).store
        assert store.ids("text") == index.store.ids("text")
        vectors = [np.concatenate(list(s.vectors("text"))) for s in (store, index.store)]
        np.testing.assert_array_equal(*vectors)


def test_an_index_is_saved_whole_or_not_at_all(index, tmp_path, monkeypatch):
    build().save(tmp_path / "index")
    before = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    monkeypatch.setattr("vacsr_jax.search.index.files.to_json", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.save(tmp_path / "index")
    assert {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_no_other_folder_is_replaced(index, tmp_path):
    (tmp_path / "thesis.txt").write_text("kept")
    with pytest.raises(ValueError, match="exists and is not an index"):
        index.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "kept"


def test_an_empty_index_can_be_saved(tmp_path):
    MixedIndex("clip").save(tmp_path / "index")
    assert len(MixedIndex.load(tmp_path / "index")) == 0


DAMAGE = {
    "index.json": lambda path: path.write_text("{"),
    "documents.jsonl": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[1:])),
    "vectors-1-0.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "vectors-0-0.safetensors": lambda path: path.unlink(),
    "queries.json": lambda path: path.unlink(),
    "queries.safetensors": lambda path: path.write_bytes(struct.pack("<Q", 2**60) + b"{}"),
}
DOCUMENTS = {
    "an id that is no text": {"id": [1]},
    "a content that is no text": {"content": 3},
    "an unknown modality": {"modality": "audio"},
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_of_other_fields_is_no_document(case, index, tmp_path):
    index.save(tmp_path / "index")
    file = tmp_path / "index" / "documents.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | DOCUMENTS[case]), *others]))
    with pytest.raises(ValueError, match=r"the index cannot be read .*build it again"):
        MixedIndex.load(tmp_path / "index")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_says_so(name, index, tmp_path):
    index.save(tmp_path / "index")
    DAMAGE[name](tmp_path / "index" / name)
    with pytest.raises(ValueError, match=r"the index cannot be read .*build it again"):
        MixedIndex.load(tmp_path / "index")


def as_format_1(folder):
    """Rewrites an index as versions before the codes saved it: unit vectors in bfloat16."""
    for file in folder.glob("vectors-*"):
        tensors = load_file(file)
        vectors = codes.decode(tensors.pop("codes")).astype(ml_dtypes.bfloat16)
        save_file({"vectors": vectors, **tensors}, file)
    header = folder / "index.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format": 1}))


@pytest.mark.slow
def test_an_index_of_format_1_is_read_and_saved_as_format_2(index, tmp_path):
    index.save(tmp_path / "index")
    as_format_1(tmp_path / "index")
    old = MixedIndex.load(tmp_path / "index", model_id="clip")
    assert_equal_stats(old.stats, index.stats)
    hits, expected = old.search(queries, 20), index.search(queries, 20)
    np.testing.assert_allclose(hits.z, expected.z, atol=0.03)  # of cosines that bfloat16 moves by up to 3e-3
    assert (hits.ids == expected.ids).mean() > 0.9
    assert old.contents == index.contents
    old.add(draw(3, 9, 0), ["a", "b", "c"], "image")
    old.save(tmp_path / "index")
    assert json.loads((tmp_path / "index" / "index.json").read_text())["format"] == 2
    again = MixedIndex.load(tmp_path / "index")
    same(again.search(queries, 20), old.search(queries, 20))
    for name in ("image", "text"):
        np.testing.assert_array_equal(*(np.concatenate(list(x.store.codes(name))) for x in (old, again)))


def test_formats_and_folders_that_are_none(index, tmp_path):
    with pytest.raises(ValueError, match=r"holds no index.json, so it is not an index"):
        MixedIndex.load(tmp_path)
    index.save(tmp_path / "index")
    header = tmp_path / "index" / "index.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match="format 0, this version reads 1 and 2"):
        MixedIndex.load(tmp_path / "index")
    header.write_text(json.dumps({"format": 2}))
    with pytest.raises(ValueError, match="has no model_id, stats, about"):
        MixedIndex.load(tmp_path / "index")


def test_another_models_index_and_statistics_are_refused(index, tmp_path):
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="index of model 'clip', asked for 'siglip'"):
        MixedIndex.load(tmp_path / "index", model_id="siglip")
    with pytest.raises(ValueError, match="statistics of model 'siglip', index of 'clip'"):
        build().use(S.empty(("image", "text"), model_id="siglip"))


def test_statistics_from_elsewhere_age_as_the_index_grows(index, tmp_path):
    other = MixedIndex("clip", jax.devices()[:1])
    other.add(images[:40], image_ids[:40], "image")
    other.add(texts, text_ids, "text")
    other.use(S.update(S.empty(("image", "text"), (25, TEXTS), model_id="clip"), S.fit(
        queries, images, np.zeros(IMAGES, int), ("image", "text")).mean))  # fmt: skip
    with pytest.warns(UserWarning, match="image 25 -> 50"):
        other.add(images[40:50], image_ids[40:50], "image")
    other.save(tmp_path / "index")
    with pytest.warns(UserWarning, match="the statistics are out of date"):
        MixedIndex.load(tmp_path / "index")


def test_the_diagnosis(index, tmp_path):
    found = index.diagnose(k=10)
    assert found.documents == {"image": IMAGES, "text": TEXTS}
    assert found.share_raw == {"image": 0, "text": 1}
    assert found.share["image"] == pytest.approx((index.search(queries, 10).modality == "image").mean())
    assert found.mean["text"] == pytest.approx(float(index.stats.mean[0, 1]))
    assert found.std_error["image"] == pytest.approx(float(index.stats.standard_error_std[0, 0]))
    centres = [np.mean(x / np.linalg.norm(x, axis=1, keepdims=True), axis=0) for x in (images, texts)]
    assert found.gap["image", "text"] == pytest.approx(np.linalg.norm(centres[0] - centres[1]), abs=1e-3)
    rows, columns = found.rows()
    assert all(len(row) == len(columns) for row in rows)
    found.plot(tmp_path / "plots" / "bias.png")
    assert (tmp_path / "plots" / "bias.png").read_bytes().startswith(b"\x89PNG")
    assert index.diagnose(queries[:3], k=1000).k == IMAGES + TEXTS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search(queries, 3), r"no statistics yet; call fit\(queries\)"),
        (lambda index: index.fit(queries[:1]), "got 1 queries over 150 documents"),
        (lambda index: index.fit(queries[:, :4]), "queries: got 4 numbers each, expected 16"),
        (lambda index: MixedIndex().fit(queries), "over 0 documents"),
        (lambda index: index.add(images, image_ids, "image"), "'i0' occurs twice"),
        (lambda index: index.add(images[:2], ["a", "b"], ["image"]), "modality, contents: expected 2 each"),
        (
            lambda index: index.add(images[:2], ["a", "b"], "image", contents=["x"]),
            "modality, contents: expected 2 each",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    index = build()
    with pytest.raises(ValueError, match=message):
        call(index)
    assert len(index) == IMAGES + TEXTS


def test_a_diagnosis_needs_queries():
    index = build()
    index.use(S.empty(("image", "text"), (IMAGES, TEXTS), model_id="clip"))
    with pytest.raises(ValueError, match="no text queries were fitted"):
        index.diagnose()
