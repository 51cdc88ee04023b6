"""Vectors of several files as one array: any float type, mapped or not, rows in any order."""

import ml_dtypes
import numpy as np
import pytest

from vacsr_jax.data import vectors as V
from vacsr_jax.safe_npz import read_npy, read_npz

X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


def test_rows_of_several_parts_come_in_the_order_asked_for():
    joined = V.join([X[:3], X[3:4].astype(np.float64), X[4:].astype(np.float16)])
    index = np.array([6, 0, 3, 3, 5])
    np.testing.assert_allclose(joined[index], X[index], atol=2e-3)
    assert joined[index].dtype == np.float32
    assert joined.shape == (7, 4)
    np.testing.assert_array_equal(joined[1:3], X[1:3])
    np.testing.assert_array_equal(joined.take(np.array([2, 0]))[np.array([1])], X[:1])
    np.testing.assert_array_equal(joined[3], X[3])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_float_type_survives_a_file(dtype, tmp_path):
    np.save(tmp_path / "x.npy", X.astype(dtype))
    np.savez(tmp_path / "x.npz", x=X.astype(dtype), n=np.arange(3))
    for array in (read_npy(tmp_path / "x.npy", mapped=True), read_npz(tmp_path / "x.npz", mapped=["x"])["x"]):
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(V.join([array])[:], X.astype(dtype).astype(np.float32))


def test_a_compressed_or_fortran_array_is_read_right(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", x=X)
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(X))
    for name in "cf":
        np.testing.assert_array_equal(read_npz(tmp_path / f"{name}.npz", mapped=["x"])["x"], X)


def test_pages_of_a_mapped_file_are_given_back(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(V, "RESIDENT", 3 * V.TOUCHED)
    joined = V.join([read_npy(tmp_path / "x.npy", mapped=True)])
    touched = []
    for i in range(7):
        np.testing.assert_array_equal(joined[i : i + 1], X[i : i + 1])
        touched.append(joined.touched[0] // V.TOUCHED)
    assert touched == [1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([X.astype(int)], r"got int64 \[7, 4\], expected floats \[n, d\]"),
        ([X[0]], "expected floats"),
        ([X[:0]], "at least one vector"),
        ([X, X[:, :3]], "vectors of 4 and of 3 numbers"),
    ],
)
def test_other_arrays_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        V.join(parts)


@pytest.mark.parametrize(("value", "fault"), [(0, "is all zero"), (np.nan, "is not finite"), (np.inf, "is not finite")])
def test_a_bad_row_is_named(value, fault, monkeypatch):
    monkeypatch.setattr(V, "CHUNK", 2)
    x = X.copy()
    x[5] = value
    with pytest.raises(ValueError, match=f"image_embeddings: row 5 {fault}"):
        V.check_rows(V.join([x]), "image_embeddings")
