"""Text entropy: against numpy in float64, masked, in chunks, on a mesh, from a bank that was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.search import text_entropy as T
from vacsr_jax.search.pseudo_positives import unit

M, N, D, SCALE = 6, 45, 8, 20.0


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return tuple(np.asarray(unit(rng.normal(size=(n, D)).astype(np.float32))) for n in (M, N))


def by_numpy(scores):
    """Entropy of each column of [n, m], as it is written in books."""
    scores = scores.astype(np.float64)
    p = np.exp(scores - scores.max(axis=0))
    p /= p.sum(axis=0)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), axis=0)


def test_entropy_of_scores_is_that_of_the_definition():
    scores = 5 * np.random.default_rng(1).normal(size=(N, M))
    np.testing.assert_allclose(T.score_entropy(scores), by_numpy(scores), rtol=2e-6, atol=1e-6)
    valid = np.arange(N) < 40
    np.testing.assert_allclose(T.score_entropy(scores, valid), by_numpy(scores[:40]), rtol=2e-6, atol=1e-6)


def test_it_counts_the_images_a_text_fits():
    scores = np.full((100, 3), -1e4, np.float32)
    for j, fits in enumerate((1, 7, 100)):
        scores[:fits, j] = 30
    np.testing.assert_allclose(np.exp(T.score_entropy(scores)), [1, 7, 100], rtol=1e-5, atol=1e-6)
    assert np.asarray(T.score_entropy(np.full((3, 2), -np.inf))).tolist() == [0, 0]
    far = np.array([[1e6], [0.0]])
    assert T.score_entropy(far).tolist() == [0]  # no image but one, and no NaN


def test_its_gradient_is_finite_where_scores_are_extreme():
    grad = jax.grad(lambda s: T.score_entropy(s).sum())
    scores = jnp.array([[1e4, 0.5, -jnp.inf], [0.0, 0.2, 1.0]])
    assert np.isfinite(grad(scores)).all()
    p = np.exp([0.5, 0.2]) / np.exp([0.5, 0.2]).sum()  # dH/ds_i = -p_i (log p_i + H)
    np.testing.assert_allclose(grad(scores)[:, 1], -p * (np.log(p) - p @ np.log(p)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [7, 45, None])
def test_a_bank_in_chunks_is_the_bank(problem, chunk):
    texts, images = problem
    expected = by_numpy(SCALE * images.astype(np.float64) @ texts.T)
    got = T.bank_entropy(texts, images, SCALE, chunk=chunk)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    valid = np.arange(N) % 9 > 0
    valid[:14] = False  # whole chunks of padding come first
    expected = by_numpy(SCALE * images[valid].astype(np.float64) @ texts.T)
    broken = np.where(valid[:, None], images, np.nan)
    np.testing.assert_allclose(
        T.bank_entropy(texts, broken, SCALE, valid=valid, chunk=chunk), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("axes", [{"query": 2, "bank": 4}, {"bank": 8}, {"query": 8}])
def test_on_a_mesh_entropies_are_those_of_one_device(problem, axes):
    texts, images = problem  # 6 and 45 rows: neither divides by the devices
    valid = np.arange(N) >= 12  # of eight devices the first two hold padding alone
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes))
    got = T.sharded_bank_entropy(mesh, texts, images, SCALE, valid=valid)
    np.testing.assert_allclose(got, T.bank_entropy(texts, images, SCALE, valid=valid), rtol=1e-5, atol=1e-6)


def test_a_mesh_needs_an_axis_of_ours(problem):
    with pytest.raises(ValueError, match="expected query, bank or both"):
        T.sharded_bank_entropy(jax.make_mesh((8,), ("data",)), *problem, SCALE)


def test_texts_that_arrive_in_parts_get_what_they_get_at_once(problem, monkeypatch):
    texts, images = problem
    bank = T.make_bank(3 * images, SCALE, weight=0.5)
    whole = bank.bias(2 * texts)
    np.testing.assert_allclose(
        whole, 0.5 / SCALE * by_numpy(SCALE * images.astype(np.float64) @ texts.T), rtol=1e-5, atol=1e-6
    )
    parts = np.concatenate([bank.bias(texts[:1]), bank.bias(texts[1:])])
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    monkeypatch.setattr(T, "TEXTS", 4)
    np.testing.assert_allclose(bank.bias(texts), whole, rtol=1e-6)


def test_a_folded_bias_is_the_corrected_score_for_images_and_the_cosine_for_texts(problem):
    texts, images = problem
    bias = T.make_bank(images, SCALE).bias(texts)
    stored = T.fold(texts, bias)
    assert stored.shape == (M, D + 1)
    np.testing.assert_allclose(T.fold(images, 1) @ stored.T, images @ texts.T + bias, atol=1e-6)
    np.testing.assert_allclose(T.fold(texts, 0) @ stored.T, texts @ texts.T, atol=1e-6)
    # In logits: s + w H, and for one text the order of the images stays.
    np.testing.assert_allclose(
        SCALE * bias, by_numpy(SCALE * images.astype(np.float64) @ texts.T), rtol=1e-5, atol=1e-6
    )


def test_a_saved_bank_loads_equal(problem, tmp_path):
    texts, images = problem
    ids = [f"train-{i}" for i in range(N)]
    bank = T.make_bank(7 * images, SCALE, weight=0.25, ids=ids, model_id="clip")
    T.save(bank, tmp_path / "new" / "bank")
    again = T.load(tmp_path / "new" / "bank")
    assert (again.scale, again.weight, again.ids, again.model_id) == (SCALE, 0.25, tuple(ids), "clip")
    assert (again.images == bank.images).all()
    assert (again.bias(texts) == bank.bias(texts)).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"images": np.full((3, 4), np.nan)}, "images of the bank: not finite in float32: row 0"),
        ({"images": np.zeros((3, 4))}, "all zero"),
        ({"scale": 0.0}, "scale: got 0.0, expected a number above 0"),
        ({"scale": np.inf}, "scale: got inf"),
        ({"weight": np.nan}, "weight: got nan"),
        ({"ids": ["a", "a", "b"]}, "'a' occurs twice"),
    ],
)
def test_what_no_bank_can_be_made_of(fault, message):
    arguments = {"images": np.eye(3, 4), "scale": 1.0} | fault
    with pytest.raises(ValueError, match=message):
        T.make_bank(**arguments)


def test_texts_and_files_that_do_not_fit(problem, tmp_path):
    texts, images = problem
    bank = T.make_bank(images, SCALE)
    with pytest.raises(ValueError, match="texts: got 3 numbers each, expected 8"):
        bank.bias(texts[:, :3])
    with pytest.raises(ValueError, match="texts: not finite"):
        bank.bias(np.where(np.arange(M)[:, None] == 2, np.nan, texts))
    for name, arrays in (("other.npz", {"x": images}), ("bank.npz", None)):
        path = tmp_path / name
        np.savez(path, **arrays) if arrays else path.write_bytes(b"PK nothing")
        with pytest.raises(ValueError, match=f"{name} holds no bank of images"):
            T.load(path)
