"""npy and npz files: a damaged file, a decompression bomb or a pickle is refused before memory is allocated."""

import io
import struct
import zipfile

import numpy as np
import pytest

from vacsr_jax import safe_npz
from vacsr_jax.safe_npz import read_npy, read_npz

X = np.arange(6.0, dtype=np.float32).reshape(2, 3)


def npy(array=X, header=None):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    if header is None:
        return buffer.getvalue()
    header = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + X.tobytes()


def says(shape, descr="'<f4'"):
    return npy(header=f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


BAD = {
    "empty": (b"", "EOF|magic"),
    "text": (b"hello", "EOF|magic"),
    "a pickle": (b"\x80\x04N.", "EOF|magic"),
    "objects": (npy(np.array([None], object)), "it holds pickled objects"),
    "a terabyte": (says("(274877906944,)"), r"says float32 \[274877906944\], more than the file has"),
    "beyond integers": (says(f"({10**30},)"), "more than the file has"),
    "negative": (says("(-1, 3)"), "expected whole numbers|shape"),
    "a truth": (says("(True, 3)"), "expected whole numbers"),
    "no shape": (says("'ab'"), "shape"),
    "no type": (says("(2, 3)", "'x'"), "type"),
    "wide strings": (says("(1,)", "'<U100000000'"), "more than the file has"),
    "a call": (says("(2, 3)", "__import__('os')"), "malformed"),
    "cut": (npy()[:-1], "more than the file has"),
    "open brackets": (npy(header="{'descr': ((((((("), "header|EOF"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
def test_a_bad_array_is_named_and_refused(case, packed, tmp_path):
    content, message = BAD[case]
    path = tmp_path / ("x.npz" if packed else "x.npy")
    if packed:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)x\.np[yz] .*({message})"):
        (read_npz if packed else read_npy)(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_npz, "MOST_UNPACKED", 2**20)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(2**20, np.float32))
    with pytest.raises(ValueError, match=r"bytes unpack to 4,194,\d\d\d, like a decompression bomb"):
        read_npz(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.zeros(2**20, np.float32))
    assert not read_npz(tmp_path / "x.npz")["x"].any()


def test_an_array_that_occurs_twice_is_ambiguous(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x.npy", npy())
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", npy(X + 1))
    with pytest.raises(ValueError, match="holds an array twice"):
        read_npz(tmp_path / "x.npz")


def test_one_array_for_several_and_several_for_one(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    with pytest.raises(ValueError, match="it holds one array, expected several"):
        read_npz(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="it holds several arrays"):
        read_npy(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none")
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy", mapped=True), X)
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")["x"], X)
