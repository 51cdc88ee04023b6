"""Unit vectors as 16-bit whole numbers, in two bytes that are read apart.

A vector x is rotated and kept as a code n of the same direction: R x = n / |n|, with n = 256 high + low. A search scans
the high bytes, which are half the memory, and reads the low bytes of the best candidates only. A cosine with a code
differs from float32's by 1e-5 at most, measured; with the high bytes alone it would be 1e-2.

R is diagonal signs, then a Hadamard matrix, divided by its root. It spreads a large number over the others. Models
such as CLIP have one or two numbers that are many times as large as the rest, and the scale has to hold the largest.

The code of a vector depends on the vector alone, bit by bit, not on the batch it came in: the numbers are first rounded
to a grid on which the sums of the rotation are exact in float32. So copies have equal scores, wherever they are stored.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int8, Int16
from scipy.linalg import hadamard

LARGEST = 127 * 256 + 127  # of a code, so that its high byte is at most 127
CHUNK = 512  # vectors encoded at a time, so that they stay in a core's cache


def encode(x: Float32[np.ndarray, "n d"]) -> Int16[np.ndarray, "n d"]:
    """Codes of unit vectors."""
    d = x.shape[1]
    grid = np.float32(2.0 ** (23 - np.ceil(np.log2(d) / 2)))  # |x|_1 grid < 2^24, as |x|_1 is at most sqrt(d)
    codes = np.empty(x.shape, np.int16)
    for i in range(0, len(x), CHUNK):
        part = slice(i, i + CHUNK)
        rotated = _hadamard(np.rint(x[part] * (grid * _signs(d))))
        rotated *= (LARGEST / np.maximum(np.abs(rotated).max(axis=1), 1))[:, None]
        codes[part] = np.rint(rotated, out=rotated)
    return codes


def split(codes: Int16[np.ndarray, "n d"]) -> tuple[Int8[np.ndarray, "n d"], Int8[np.ndarray, "n d"]]:
    """High and low bytes: codes = 256 high + low, with low from -128 to 127."""
    low = codes.astype(np.int8)  # the last eight bits, with a sign
    return ((codes - low) >> 8).astype(np.int8), low


def join(high: Int8[np.ndarray, "n d"], low: Int8[np.ndarray, "n d"]) -> Int16[np.ndarray, "n d"]:
    return (high.astype(np.int16) << 8) + low


def scales(codes: Int[np.ndarray, "n d"]) -> Float32[np.ndarray, " n"]:
    """The scale that gives a code unit length."""
    return (1 / np.maximum(lengths(codes), 1)).astype(np.float32)


def lengths(codes: Int[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    return np.sqrt(np.einsum("nd,nd->n", codes, codes, dtype=np.float64))


def decode(codes: Int16[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """The unit vectors again, each within 1e-4 of what was encoded."""
    d = codes.shape[1]
    return _hadamard(codes * (scales(codes) / _root(d))[:, None], back=True) * _signs(d)


def rotate(x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """R x in float32: the product of a rotated query and s n is a cosine."""
    return _hadamard(x * _signs(x.shape[1])) / _root(x.shape[1])


def _hadamard(x: Float[np.ndarray, "n d"], *, back: bool = False) -> Float[np.ndarray, "n d"]:
    """The product with a Hadamard matrix of the largest power of two that divides d, for each such part of x.

    It is the Kronecker product of two smaller ones: d (a + b) sums instead of d a b.
    """
    a, b = _sides(x.shape[1])
    first, second = (a, b) if back else (b, a)
    y = (x.reshape(-1, first) @ _matrix(first)).reshape(-1, second, first).swapaxes(1, 2)
    return (y.reshape(-1, second) @ _matrix(second)).reshape(x.shape)


def _sides(d: int) -> tuple[int, int]:
    power = (d & -d).bit_length() - 1
    return 1 << power // 2, 1 << (power + 1) // 2


def _root(d: int) -> np.float32:
    return np.float32(np.sqrt(d & -d))


@functools.cache
def _matrix(n: int) -> np.ndarray:
    return hadamard(n, np.float32)


@functools.cache
def _signs(d: int) -> np.ndarray:
    # The raw bits of a numbered bit generator are the same in every version of numpy; saved codes depend on them.
    return np.where(np.random.PCG64(0).random_raw(d) >> np.uint64(63), np.float32(1), np.float32(-1))
