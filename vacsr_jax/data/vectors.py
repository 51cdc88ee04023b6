"""Float vectors of one or several files as one array, whose rows are read when they are asked for."""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Sequence

import ml_dtypes
import numpy as np
from tqdm import tqdm

CHUNK = 1 << 16  # rows that are checked at once
RESIDENT = 1 << 28  # bytes of a mapped file that stay in memory
TOUCHED = 1 << 16  # bytes that reading one row of a mapped file may bring into memory


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors [n, d]; indexing gives float32 [..., d] in memory.

    Attributes:
      parts: arrays [*, d] of float16, bfloat16, float32 or float64, in memory or mapped.
      rows: int64 [n], the rows of the joined parts that are meant.
    """

    parts: tuple[np.ndarray, ...]
    rows: np.ndarray
    starts: np.ndarray  # of the parts
    touched: list[int]  # bytes of each part read since its pages were last given back

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)  # of what indexing gives

    def take(self, index: np.ndarray) -> Vectors:
        """The vectors `index` (int [k]), without reading them."""
        return dataclasses.replace(self, rows=self.rows[index])

    def __getitem__(self, index) -> np.ndarray:
        rows = self.rows[index]
        if len(self.parts) == 1:
            return self._read(0, rows)
        flat = np.ravel(rows)
        out = np.empty((len(flat), self.shape[1]), np.float32)
        part_of = np.searchsorted(self.starts, flat, side="right") - 1
        for part in np.unique(part_of):
            mine = part_of == part
            out[mine] = self._read(part, flat[mine] - self.starts[part])
        return out.reshape(*np.shape(rows), -1)

    def _read(self, part: int, rows: np.ndarray) -> np.ndarray:
        array = self.parts[part]
        found = np.asarray(array[rows]).astype(np.float32)
        if isinstance(array, np.memmap):
            self.touched[part] += np.size(rows) * max(TOUCHED, found.shape[-1] * array.itemsize)
            if self.touched[part] > RESIDENT:
                # Otherwise every page that was ever read counts as this process's memory. The system's cache keeps it.
                self.touched[part] = 0
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return found


def join(parts: Sequence[np.ndarray]) -> Vectors:
    """The vectors of all parts, in order.

    Raises:
      ValueError: if a part holds no vectors of floats, or vectors of another dimension than the first.
    """
    parts = [as_floats(part) for part in parts]
    for part in parts:
        if part.shape[1] != parts[0].shape[1]:
            raise ValueError(f"got vectors of {parts[0].shape[1]} and of {part.shape[1]} numbers, expected one length")
    starts = np.cumsum([0, *map(len, parts)])
    return Vectors(tuple(parts), np.arange(starts[-1]), starts[:-1], [0] * len(parts))


def as_floats(x: np.ndarray) -> np.ndarray:
    """An array [n, d] of floats, with numpy's name of bfloat16 (two bytes without a meaning) understood.

    Raises:
      ValueError: for any other array.
    """
    if x.dtype.kind == "V" and x.dtype.itemsize == 2 and x.dtype.names is None:
        x = x.view(ml_dtypes.bfloat16)
    if x.ndim != 2 or not (x.dtype.kind == "f" or x.dtype == ml_dtypes.bfloat16) or 0 in x.shape:
        raise ValueError(f"got {x.dtype} {list(x.shape)}, expected floats [n, d], with at least one vector")
    return x


def check_rows(vectors: Vectors, name: str) -> None:
    """Raises ValueError, naming the first row at fault, if a vector is zero, NaN or infinite."""
    with tqdm(total=len(vectors), desc=f"checking {name}", unit=" rows", delay=3, leave=False, disable=None) as bar:
        for start in range(0, len(vectors), CHUNK):
            x = vectors[start : start + CHUNK]
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.einsum("nd,nd->n", x, x)
            bad = np.flatnonzero(~np.isfinite(squares) | (squares == 0))
            if len(bad):
                row = int(bad[0])
                fault = "is all zero" if squares[row] == 0 else "is not finite"
                raise ValueError(f"{name}: row {start + row} {fault}; remove it or compute it again")
            bar.update(len(x))
