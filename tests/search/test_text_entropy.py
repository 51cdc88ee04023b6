"""Text entropy against float64 numpy, in chunks and from saved reference images; its scale and weight from pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.metrics.scale import fit_scale
from vacsr_jax.ops.vectors import unit
from vacsr_jax.search import text_entropy as T

M, N, D, SCALE = 6, 45, 8, 20.0


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return tuple(np.asarray(unit(rng.normal(size=(n, D)).astype(np.float32))) for n in (M, N))


def by_numpy(scores):
    """The textbook entropy of each column of [n, m]."""
    scores = scores.astype(np.float64)
    p = np.exp(scores - scores.max(axis=0))
    p /= p.sum(axis=0)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=0)


def test_entropy_of_scores_is_that_of_the_definition():
    scores = 5 * np.random.default_rng(1).normal(size=(N, M))
    np.testing.assert_allclose(T.score_entropy(scores), by_numpy(scores), rtol=2e-6, atol=1e-6)
    padded = np.concatenate([scores, np.full((3, M), -np.inf)])
    np.testing.assert_allclose(T.score_entropy(padded), by_numpy(scores), rtol=2e-6, atol=1e-6)


def test_it_counts_the_images_a_text_fits():
    scores = np.full((100, 3), -1e4, np.float32)
    for j, fits in enumerate((1, 7, 100)):
        scores[:fits, j] = 30
    np.testing.assert_allclose(np.exp(T.score_entropy(scores)), [1, 7, 100], rtol=1e-5, atol=1e-6)
    assert np.asarray(T.score_entropy(np.full((3, 2), -np.inf))).tolist() == [0, 0]
    far = np.array([[1e6], [0.0]])
    assert T.score_entropy(far).tolist() == [0]  # one image takes all the probability; no NaN


def test_its_gradient_is_finite_where_scores_are_extreme():
    grad = jax.grad(lambda s: T.score_entropy(s).sum())
    scores = jnp.array([[1e4, 0.5, -jnp.inf], [0.0, 0.2, 1.0]])
    assert np.isfinite(grad(scores)).all()
    p = np.exp([0.5, 0.2]) / np.exp([0.5, 0.2]).sum()  # dH/ds_i = -p_i (log p_i + H)
    np.testing.assert_allclose(grad(scores)[:, 1], -p * (np.log(p) - p @ np.log(p)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [7, 45, None])
@pytest.mark.slow
def test_images_in_chunks_are_all_the_images(problem, chunk):
    texts, images = problem
    expected = by_numpy(SCALE * images.astype(np.float64) @ texts.T)
    got = T.cosine_entropy(texts, images, SCALE, chunk=chunk)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    broken = np.concatenate([np.full((14, D), np.nan), images]).astype(np.float32)  # whole chunks count for nothing
    np.testing.assert_allclose(T.cosine_entropy(texts, broken, SCALE, chunk=chunk), expected, rtol=1e-5, atol=1e-6)


def test_texts_that_arrive_in_parts_get_what_they_get_at_once(problem, monkeypatch):
    texts, images = problem
    reference = T.make_reference_images(3 * images, SCALE, weight=0.5)
    whole = reference.bias(2 * texts)
    np.testing.assert_allclose(
        whole, 0.5 / SCALE * by_numpy(SCALE * images.astype(np.float64) @ texts.T), rtol=1e-5, atol=1e-6
    )
    parts = np.concatenate([reference.bias(texts[:1]), reference.bias(texts[1:])])
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    monkeypatch.setattr(T, "TEXTS", 4)
    np.testing.assert_allclose(reference.bias(texts), whole, rtol=1e-6)


def test_an_appended_bias_is_the_corrected_score_for_images_and_the_cosine_for_texts(problem):
    texts, images = problem
    bias = T.make_reference_images(images, SCALE).bias(texts)
    stored = T.append_dimension(texts, bias)
    assert stored.shape == (M, D + 1)
    np.testing.assert_allclose(T.append_dimension(images, 1) @ stored.T, images @ texts.T + bias, atol=1e-6)
    np.testing.assert_allclose(T.append_dimension(texts, 0) @ stored.T, texts @ texts.T, atol=1e-6)
    # In logits s + w H. The order of the images of one text stays.
    np.testing.assert_allclose(
        SCALE * bias, by_numpy(SCALE * images.astype(np.float64) @ texts.T), rtol=1e-5, atol=1e-6
    )


def test_saved_reference_images_load_equal(problem, tmp_path):
    texts, images = problem
    ids = [f"train-{i}" for i in range(N)]
    reference = T.make_reference_images(7 * images, SCALE, weight=0.25, ids=ids, model_id="clip")
    T.save(reference, tmp_path / "new" / "reference")
    again = T.load(tmp_path / "new" / "reference")
    assert (again.scale, again.weight, again.ids, again.model_id) == (SCALE, 0.25, tuple(ids), "clip")
    assert (again.images == reference.images).all()
    assert (again.bias(texts) == reference.bias(texts)).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"images": np.full((3, 4), np.nan)}, "reference images: not finite in float32: row 0"),
        ({"images": np.zeros((3, 4))}, "all zero"),
        ({"scale": 0.0}, "scale: got 0.0, expected a number above 0"),
        ({"scale": np.inf}, "scale: got inf"),
        ({"weight": np.nan}, "weight: got nan"),
        ({"ids": ["a", "a", "b"]}, "'a' occurs twice"),
    ],
)
def test_what_cannot_be_reference_images(fault, message):
    arguments = {"images": np.eye(3, 4), "scale": 1.0} | fault
    with pytest.raises(ValueError, match=message):
        T.make_reference_images(**arguments)


def test_texts_and_files_that_do_not_fit(problem, tmp_path):
    texts, images = problem
    reference = T.make_reference_images(images, SCALE)
    with pytest.raises(ValueError, match="texts: got 3 numbers each, expected 8"):
        reference.bias(texts[:, :3])
    with pytest.raises(ValueError, match="texts: not finite"):
        reference.bias(np.where(np.arange(M)[:, None] == 2, np.nan, texts))
    for name, arrays in (("other.npz", {"x": images}), ("bank.npz", None)):
        path = tmp_path / name
        np.savez(path, **arrays) if arrays else path.write_bytes(b"PK nothing")
        with pytest.raises(ValueError, match=f"{name} holds no reference images"):
            T.load(path)


def test_the_scale_that_labels_were_drawn_with_is_found():
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, size=(20, 4000))
    p = np.exp(8 * cosines) / np.exp(8 * cosines).sum(axis=0)
    image = (rng.uniform(size=4000) > np.cumsum(p, axis=0)).sum(axis=0)
    positives = np.arange(20)[:, None] == image
    assert fit_scale(cosines, positives) == pytest.approx(8, rel=0.03)
    with pytest.raises(ValueError, match="0 labelled pairs"):
        fit_scale(cosines, np.zeros_like(positives))


def test_the_weight_that_labels_prefer_is_chosen_and_of_equals_the_first():
    scores, positives = np.eye(3), np.eye(3, dtype=bool)
    assert T.choose_weight(scores, np.zeros(3), positives, (0.5, 0.0, 1.0)) == 0.5
    assert T.choose_weight(scores - [0, 0, 2], np.array([0, 0, 2.0]), positives) == 1.0
