"""Embeddings as npz files: vectors of any model with ids and modalities; for queries, what answers them.

The arrays: `embeddings` float [n, d], `ids` [n] and `modality` [n] strings; a file of queries also `answers` [n] and
optionally `exclude` [n], ids of the bank separated by spaces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vacsr_jax.arrays import read_npz
from vacsr_jax.atomic_files import replace_whole

UNIT = 1e-2  # a length within this of 1 is rounding (of half precision at most), not a vector left as it came
SHOWN = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Items of any model.

    Attributes:
      vectors: float32 [n, d], unit length.
      ids, modality: [n] of str.
      answers, exclude: [n] tuples of ids in the bank, or None.
      model_id: what made them, as `vacsr embed` writes it; "" where the file does not say.
      notes: what was done about the file that its owner should know.
    """

    vectors: np.ndarray
    ids: np.ndarray
    modality: np.ndarray
    answers: tuple[tuple[str, ...], ...] | None = None
    exclude: tuple[tuple[str, ...], ...] | None = None
    model_id: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def read_embeddings(path: str | Path) -> Embeddings:
    """A file's items, checked; vectors that are not of unit length are scaled to it, with a note.

    Raises:
      ValueError: naming the file and the first items at fault, if it is no npz, an array is missing, of another type or
        length, an id repeats, or a vector is not finite or zero. Pickled objects are never loaded.
      OSError: if it cannot be opened.
    """
    path = Path(path)
    arrays = read_npz(path)
    try:
        ids = _strings(arrays, "ids")
        vectors, notes = _unit_vectors(_array(arrays, "embeddings"), ids)
        lists = {
            name: tuple(tuple(str(x).split()) for x in _strings(arrays, name, like=ids))
            for name in ("answers", "exclude")
            if name in arrays
        }
        model_id = arrays.get("model_id", np.array(""))
        if model_id.shape != () or model_id.dtype.kind != "U":
            raise ValueError(f"model_id: got {model_id.dtype} {list(model_id.shape)}, expected one string")
        found = Embeddings(vectors, ids, _strings(arrays, "modality", like=ids), **lists, model_id=str(model_id))
        _check_names(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dataclasses.replace(found, notes=tuple(f"{path}: {note}" for note in notes))


def write_embeddings(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes a whole npz or nothing, under the name it is given, and makes its folder."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name without .npz would get it appended
            np.savez(file, **arrays)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, write)


def rows_of(lists: Sequence[Sequence[str]], bank: Embeddings, name: str) -> np.ndarray:
    """Lists of ids as rows of the bank: int32 [n, longest list], -1 where a list is shorter.

    Raises:
      ValueError: if an id is not in the bank.
    """
    unknown = not_in_bank(lists, bank)
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} ids are not in the bank, the first {unknown[:SHOWN]}; they are separated by "
            "spaces, so an id that contains one cannot be named"
        )
    number = {identity: row for row, identity in enumerate(bank.ids.tolist())}
    rows = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
    for row, ids in zip(rows, lists, strict=True):
        row[: len(ids)] = [number[x] for x in ids]
    return rows


def not_in_bank(lists: Sequence[Sequence[str]], bank: Embeddings) -> list[str]:
    """The ids that a bank does not hold, each once, in order."""
    known = set(bank.ids.tolist())
    return list(dict.fromkeys(x for ids in lists for x in ids if x not in known))


def excluded_rows(queries: Embeddings, bank: Embeddings) -> np.ndarray:
    """Rows of the bank that are no candidates of each query: those it excludes, and itself; int32 [q, e], -1 is none.

    Itself: the item with the query's own id and modality, unless that is given as its answer. Excluded ids that are not
    in the bank exclude nothing.
    """
    kinds = dict(zip(bank.ids.tolist(), bank.modality.tolist(), strict=True))
    given = queries.exclude or [()] * len(queries)
    answers = queries.answers or [()] * len(queries)
    lists = []
    for identity, kind, listed, right in zip(
        queries.ids.tolist(), queries.modality.tolist(), given, answers, strict=True
    ):
        own = [identity] if kinds.get(identity) == kind and identity not in right and identity not in listed else []
        lists.append([*(x for x in listed if x in kinds), *own])
    return rows_of(lists, bank, "exclude")


def numbered(names: np.ndarray, modalities: tuple[str, ...], where: str) -> np.ndarray:
    """Each name as its place among the modalities, int32.

    Raises:
      ValueError: for a name that is none of them.
    """
    number = {name: i for i, name in enumerate(modalities)}
    unknown = sorted(set(names.tolist()) - set(number))
    if unknown:
        raise ValueError(f"{where}: unknown modality {', '.join(map(repr, unknown))}; expected {', '.join(modalities)}")
    return np.array([number[name] for name in names.tolist()], np.int32)


def check_same_space(queries: Embeddings, bank: Embeddings) -> None:
    """Raises ValueError if queries and bank cannot be of one model."""
    got, expected = queries.vectors.shape[1], bank.vectors.shape[1]
    if got != expected:
        raise ValueError(f"queries have {got} dimensions and the bank {expected}; embed both with the same model")


def _array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"there is no array {name!r}, only {', '.join(arrays) or 'nothing'}")
    return arrays[name]


def _strings(arrays: dict[str, np.ndarray], name: str, like: np.ndarray | None = None) -> np.ndarray:
    x = _array(arrays, name)
    if x.ndim != 1 or x.dtype.kind != "U":
        raise ValueError(f"{name}: got {x.dtype} {list(x.shape)}, expected strings [n]; use .astype(str)")
    if like is not None and len(x) != len(like):
        raise ValueError(f"{name}: got {len(x)} entries for {len(like)} ids; give one each")
    return x


def _check_names(found: Embeddings) -> None:
    names, counts = np.unique(found.ids, return_counts=True)
    if (counts > 1).any():
        twice = names[counts > 1]
        raise ValueError(f"ids: {len(twice)} are given twice, the first {twice[:SHOWN].tolist()}; ids must be unique")
    empty = np.flatnonzero(np.char.strip(found.modality) == "")
    if len(empty):
        raise ValueError(f"modality: {len(empty)} are empty, the first of {found.ids[empty[:SHOWN]].tolist()}")


def _unit_vectors(x: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if x.ndim != 2 or x.dtype.kind != "f":
        raise ValueError(f"embeddings: got {x.dtype} {list(x.shape)}, expected floats [n, d]")
    if len(x) != len(ids):
        raise ValueError(f"embeddings: got {len(x)} rows for {len(ids)} ids; give one each")
    if x.size == 0:
        raise ValueError(f"embeddings: got {list(x.shape)}, expected at least one item and one dimension")
    x = x.astype(np.float32, copy=False)
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))  # in pieces: no copy of x in float64
    for fault, rows in (("not finite", ~np.isfinite(length)), ("all zero", length == 0)):
        if rows.any():
            raise ValueError(f"embeddings: {rows.sum()} are {fault}, the first of {ids[rows][:SHOWN].tolist()}")
    off = np.abs(length - 1) > UNIT
    notes = []
    if off.any():
        span = f"{length.min():.3g} to {length.max():.3g}"
        notes = [f"{off.sum()} of {len(x)} embeddings are not of unit length ({span}); they were normalised"]
    return x / length[:, None].astype(np.float32), notes
