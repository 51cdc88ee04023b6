"""An index with reference images: texts get their entropy bias when the query is an image, and only then."""

import jax
import numpy as np
import pytest

from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search import text_entropy as T
from vacsr_jax.search.index import MixedIndex, codes, exact

pytestmark = pytest.mark.slow

D, SCALE = 16, 8.0
IMAGES, TEXTS, ASKED, K = 30, 300, 16, 8  # sizes that need few compiled programs


def draw(n, seed):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


images, texts, asked = draw(IMAGES, 0), draw(TEXTS, 1), draw(ASKED, 2)
image_ids, text_ids = [f"i{k}" for k in range(IMAGES)], [f"t{k}" for k in range(TEXTS)]
REFERENCE = T.make_reference_images(draw(50, 3), SCALE, weight=2.0, model_id="clip")


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK", 256)
        yield


def build(reference_images=REFERENCE, parts=(slice(0, TEXTS),), fit_after=0):
    index = MixedIndex("clip", jax.devices()[:1], reference_images=reference_images)
    index.add(images, image_ids, "image")
    for i, part in enumerate(parts):
        index.add(texts[part], text_ids[part], "text")
        if i == fit_after:
            index.fit(asked, "image")
            index.fit(asked, "text")
    return index


@pytest.fixture(scope="module")
def index():
    return build()


def unit(x):
    return unit_rows(x)[0].astype(np.float64)


def stored(x):
    """As the index keeps a vector: unit, in 16 bits a number; in float64."""
    return codes.decode(codes.encode(unit_rows(x)[0])).astype(np.float64)


def test_texts_have_their_bias_for_images_and_none_for_texts(index):
    s = SCALE * REFERENCE.images.astype(np.float64) @ unit(texts).T
    p = np.exp(s) / np.exp(s).sum(axis=0)
    bias = -2.0 / SCALE * np.sum(p * np.log(p), axis=0)
    cosines = unit(asked) @ stored(texts).T
    for kind, expected in (("image", cosines + bias), ("text", cosines)):
        hits = index.search(asked, K, query_modality=kind, per_modality_k={"image": 0})
        best = np.sort(expected, axis=1)[:, : -K - 1 : -1]
        np.testing.assert_allclose(hits.score, best, atol=1e-5)
        rows = np.array([[int(x[1:]) for x in line] for line in hits.ids])
        np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), best, atol=1e-5)
        row, column = index.stats.query_modalities.index(kind), index.stats.modalities.index("text")
        assert index.stats.mean[row, column] == pytest.approx(expected.max(axis=1).mean(), abs=1e-5)
        assert index.diagnose(k=K, query_modality=kind).mean["text"] == pytest.approx(
            expected.max(axis=1).mean(), abs=1e-5
        )
    pictures = index.search(asked, K, query_modality="image", per_modality_k={"text": 0}).score
    np.testing.assert_allclose(pictures, np.sort(unit(asked) @ stored(images).T)[:, : -K - 1 : -1], atol=1e-5)


def same(a, b, kinds=("image", "text")):
    for kind in kinds:
        x, y = (index.search(asked, K, query_modality=kind) for index in (a, b))
        assert (x.ids == y.ids).all()
        np.testing.assert_allclose(x.z, y.z, atol=1e-4)


def test_an_index_that_grew_is_one_built_at_once(index):
    same(build(parts=(slice(0, 140), slice(140, TEXTS))), index)


def test_it_is_saved_and_loaded_with_its_reference_images(index, tmp_path, monkeypatch):
    index.save(tmp_path / "index")
    monkeypatch.setattr(T.ReferenceImages, "bias", None)  # the stored biases are not computed again
    again = MixedIndex.load(tmp_path / "index", devices=jax.devices()[:2])
    assert (again.reference_images.images == REFERENCE.images).all()
    assert (again.reference_images.scale, again.reference_images.weight) == (SCALE, 2.0)
    same(again, index, ["image"])
    (tmp_path / "index" / "image_bank.npz").unlink()
    with pytest.raises(ValueError, match="the index cannot be read"):
        MixedIndex.load(tmp_path / "index")


def test_reference_images_of_another_model_or_size_is_refused():
    with pytest.raises(ValueError, match="reference_images: of model 'clip', the index is of 'other'"):
        MixedIndex("other", reference_images=REFERENCE)
    index = MixedIndex(reference_images=REFERENCE)
    with pytest.raises(ValueError, match=f"got 3 numbers each, expected {D}"):
        index.add(np.ones((2, 3), np.float32), ["a", "b"], "text")
    assert len(index) == 0
