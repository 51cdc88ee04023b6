"""Codes of unit vectors: how near they are, and that they depend on the vector alone."""

import numpy as np
import pytest

from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search.index import codes


def draw(d, n=700):
    """Unit vectors, among them ones with one number that is many times the others, one without any other, and ones."""
    x = np.random.default_rng(d).normal(size=(n, d)).astype(np.float32)
    x[: n // 2, 0] += 3 * np.sqrt(d)
    x[5], x[6] = 1, 0
    x[6, 0] = 1
    return unit_rows(x)[0]


@pytest.mark.parametrize(
    ("d", "largest"), [(1, 0), (2, 3e-5), (3, 3e-5), (16, 3e-5), (512, 1e-5), (640, 1e-5), (4096, 1e-5)]
)
def test_a_cosine_with_a_code_is_that_of_float32(d, largest):
    x = draw(d)
    error = np.abs(x.astype(np.float64) @ (codes.decode(codes.encode(x)) - x).T.astype(np.float64))
    assert error.max() <= largest
    assert error.std() <= largest / 6
    assert np.diag(error).max() < 1e-6


@pytest.mark.parametrize("d", [3, 512, 768])
def test_a_code_does_not_depend_on_the_others(d):
    x = draw(d)
    whole = codes.encode(x)
    for part in (1, 7, 64, 600):
        np.testing.assert_array_equal(
            np.concatenate([codes.encode(x[i : i + part]) for i in range(0, 700, part)]), whole
        )


def test_two_bytes_and_a_rotation():
    x = draw(512)
    n = codes.encode(x)
    high, low = codes.split(n)
    assert (high.dtype, low.dtype) == (np.int8, np.int8)
    np.testing.assert_array_equal(codes.join(high, low), n)
    np.testing.assert_array_equal(256 * high.astype(int) + low, n)
    np.testing.assert_allclose(codes.rotate(x), n * codes.scales(n)[:, None], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(codes.rotate(x), axis=1), 1, atol=1e-6)
    every = np.arange(-codes.LARGEST, codes.LARGEST + 1, dtype=np.int16)[:, None]
    np.testing.assert_array_equal(codes.join(*codes.split(every)), every)


def test_saved_codes_keep_their_meaning():
    x = (np.arange(1, 17, dtype=np.float32) / np.sqrt(np.sum(np.arange(1, 17) ** 2)))[None]
    assert codes.encode(x.astype(np.float32)).tolist() == [
        [13533, -5573, 796, -21494, 32639, -11941, -31047, 16718, 8757, 11941, -7165, -3980, -10349, -7165, 11941, 8757]
    ]
