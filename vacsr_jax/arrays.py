"""npy and npz files of anyone's, checked before memory is taken for them. Pickled objects are never loaded."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Vectors hardly shrink when they are packed, names tenfold. Above both, a file is taken for a decompression bomb.
PACKED, MOST_UNPACKED = 100, 2**28

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
      ValueError: naming the file, if it is none, is damaged, holds objects, or unpacks to a hundredfold of its size.
      OSError: if it cannot be opened.
    """
    advice = "write it with numpy.savez, strings as arrays of str, not objects"
    with _readable(path, "{path} cannot be read as npz ({error}); " + advice) as file:
        if _starts_with(file, np.lib.format.MAGIC_PREFIX):
            raise ValueError("it holds one array, expected several")
        with zipfile.ZipFile(file) as members:
            _check_members(members, os.fstat(file.fileno()).st_size)
            return {info.filename.removesuffix(".npy"): _read_member(info, members) for info in members.infolist()}


def read_npy(path: str | Path, *, mapped: bool = False) -> np.ndarray:
    """The array of an npy file; `mapped` leaves it on the disk until it is read.

    Raises:
      ValueError: naming the file, if it is none, is damaged, or holds objects.
      OSError: if it cannot be opened.
    """
    advice = "write one with numpy.save; pickled objects are not read"
    with _readable(path, "{path} is no .npy file of numbers ({error}); " + advice) as file:
        if _starts_with(file, b"PK"):
            raise ValueError("it holds several arrays")
        _check_header(file, os.fstat(file.fileno()).st_size)
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


@contextlib.contextmanager
def _readable(path: str | Path, complaint: str):
    """A file, opened; whatever is wrong with its content becomes a ValueError that names it."""
    with open(path, "rb") as file:
        try:
            yield file
        except Exception as error:  # numpy, zipfile and the unpackers raise a dozen types for damaged files
            raise ValueError(complaint.format(path=path, error=error or type(error).__name__)) from error


def _starts_with(file: BinaryIO, prefix: bytes) -> bool:
    found = file.read(len(prefix)) == prefix
    file.seek(0)
    return found


def _check_members(members: zipfile.ZipFile, packed: int) -> None:
    names = members.namelist()
    if len(set(names)) < len(names):
        raise ValueError("an array stands in it twice")
    unpacked = sum(info.file_size for info in members.infolist())
    if unpacked > max(MOST_UNPACKED, PACKED * packed):
        raise ValueError(
            f"its {packed:,} bytes unpack to {unpacked:,}, as those of a decompression bomb do; if it is none, write "
            "it with numpy.savez, which does not pack"
        )


def _read_member(info: zipfile.ZipInfo, members: zipfile.ZipFile) -> np.ndarray:
    with members.open(info) as file:
        _check_header(file, info.file_size)
    with members.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: BinaryIO, size: int) -> None:
    """Raises ValueError if an npy file of so many bytes has no numbers or strings, or fewer than its header says."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"npy version {version}, expected an array of numbers or strings")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"shape {shape}, expected whole numbers")
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header says {dtype} {list(shape)}, more than the file has; it was damaged")
