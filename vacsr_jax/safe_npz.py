"""Reads .npy and .npz files, validating the header before allocating. Pickled objects are never loaded."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

# Compression hardly shrinks vectors and shrinks names tenfold. A file above both limits counts as a decompression bomb.
PACKED, MOST_UNPACKED = 100, 2**28

_LOCAL_HEADER = 30  # bytes of a zip member's header before its name; the lengths of name and extra field end it
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str | Path, *, mapped: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file.

    Args:
      mapped: names of arrays to map into memory instead of reading them, if they are not compressed.

    Raises:
      ValueError: if it is not an npz, is damaged, holds objects, or unpacks to 100 times its size; the message names
        the file.
      OSError: if it cannot be opened.
    """
    advice = "write it with numpy.savez, strings as arrays of str, not objects"
    with _readable(path, "{path} cannot be read as npz ({error}); " + advice) as file:
        if _starts_with(file, np.lib.format.MAGIC_PREFIX):
            raise ValueError("it holds one array, expected several")
        with zipfile.ZipFile(file) as members:
            _check_members(members, os.fstat(file.fileno()).st_size)
            return {
                (name := info.filename.removesuffix(".npy")): _map_member(info, members, Path(path))
                if name in mapped and info.compress_type == zipfile.ZIP_STORED
                else _read_member(info, members)
                for info in members.infolist()
            }


def read_npy(path: str | Path, *, mapped: bool = False) -> np.ndarray:
    """Reads the array of an npy file; `mapped` maps the file into memory instead of reading all of it.

    Raises:
      ValueError: if it is not an npy, is damaged, or holds objects; the message names the file.
      OSError: if it cannot be opened.
    """
    advice = "write one with numpy.save; pickled objects are not read"
    with _readable(path, "{path} is not a .npy file of numbers ({error}); " + advice) as file:
        if _starts_with(file, b"PK"):
            raise ValueError("it holds several arrays")
        _check_header(file, os.fstat(file.fileno()).st_size)
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)


@contextlib.contextmanager
def _readable(path: str | Path, complaint: str):
    """Opens the file, and turns any error about its content into a ValueError that names the file."""
    with open(path, "rb") as file:
        try:
            yield file
        except Exception as error:  # for damaged files, numpy, zipfile and the unpackers raise a dozen types
            raise ValueError(complaint.format(path=path, error=str(error) or type(error).__name__)) from error


def _starts_with(file: IO[bytes], prefix: bytes) -> bool:
    found = file.read(len(prefix)) == prefix
    file.seek(0)
    return found


def _check_members(members: zipfile.ZipFile, packed: int) -> None:
    names = members.namelist()
    if len(set(names)) < len(names):
        raise ValueError("it holds an array twice")
    unpacked = sum(info.file_size for info in members.infolist())
    if unpacked > max(MOST_UNPACKED, PACKED * packed):
        raise ValueError(
            f"its {packed:,} bytes unpack to {unpacked:,}, like a decompression bomb; if it is not one, write it "
            "with numpy.savez, which does not compress"
        )


def _read_member(info: zipfile.ZipInfo, members: zipfile.ZipFile) -> np.ndarray:
    with members.open(info) as file:
        _check_header(file, info.file_size)
    with members.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _map_member(info: zipfile.ZipInfo, members: zipfile.ZipFile, path: Path) -> np.ndarray:
    with members.open(info) as file:
        _check_header(file, info.file_size)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
        name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        file.seek(info.header_offset + _LOCAL_HEADER + name + extra)
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        if 0 in shape or dtype.kind not in "fV":
            return _read_member(info, members)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises ValueError if an npy file of `size` bytes holds objects, or less data than its header declares."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its npy version is {version}, expected 1.0 or 2.0, which hold numbers or strings")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"its shape is {shape}, expected whole numbers")
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header says {dtype} {list(shape)}, more than the file has; the file is damaged")
