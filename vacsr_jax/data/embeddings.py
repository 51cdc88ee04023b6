"""Embeddings as files: vectors of any model with ids and modalities, and for queries their answers.

A file is an npz, or a folder of them that `vacsr embed --out=FOLDER` wrote (`embedding_parts`).

The arrays are `embeddings`, float [n, d], and `ids` and `modality`, strings [n]. A file of queries may also have
`answers` and `exclude`, strings [n]: ids of documents, separated by spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.data import embedding_parts
from vacsr_jax.safe_npz import read_npz

UNIT = 1e-2  # a length this close to 1 is off by rounding, at most that of half precision
SHOWN = 3  # names in a message


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Items embedded by any model.

    Attributes:
      vectors: float32 [n, d], of unit length.
      ids, modality: [n] of str.
      answers, exclude: [n] tuples of ids of documents, or None.
      model_id: the model that made them, as `vacsr embed` writes it; "" where the file does not say.
      notes: changes made to what the file holds, for its owner to know.
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
    """Reads and checks a file or a folder of parts. Vectors that are not of unit length are scaled to it, with a note.

    Pickled objects are never loaded.

    Raises:
      ValueError: naming the file and the first items at fault, if it is not an npz, an array is missing or of another
        type or length, an id occurs twice, or a vector is zero or not finite.
      OSError: if it cannot be opened.
    """
    path = Path(path)
    if not path.is_dir():
        return _checked(path, read_npz(path))
    most = embedding_parts.read_manifest(path)
    parts: list[Embeddings] = []
    vectors, n = np.zeros((0, 0), np.float32), 0
    for part in read_parts(path):
        if not parts:  # filled part by part: memory never holds the vectors twice
            vectors = np.empty((most.images + most.texts, part.vectors.shape[1]), np.float32)
        vectors[n : n + len(part)] = part.vectors
        n += len(part)
        parts.append(dataclasses.replace(part, vectors=part.vectors[:0].copy()))
    ids, modality = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "modality"))
    found = Embeddings(vectors[:n], ids, modality, model_id=parts[0].model_id)
    try:
        _check_names(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dataclasses.replace(found, notes=tuple(note for part in parts for note in part.notes))


def read_parts(path: str | Path) -> Iterator[Embeddings]:
    """The parts of a folder, one at a time in memory, or a whole file; checked as `read_embeddings` does."""
    if Path(path).is_dir():
        yield from (_checked(*part) for part in embedding_parts.read_parts(Path(path)))
    else:
        yield read_embeddings(path)


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> Embeddings:
    try:
        ids = _strings(arrays, "ids")
        vectors, notes = _unit_vectors(_array(arrays, "embeddings"), ids)
        lists: dict[str, Any] = {
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
    """Writes an npz under exactly this name, whole or not at all, and makes its folder."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name without .npz would get it appended
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, write)


def unit_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row over its length, float32 [n, d], and the lengths, float64 [n].

    A row that is zero or not finite in float32 has the length 0, NaN or infinity, and no meaningful unit vector.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        x = np.array(x, np.float32, order="C")
        length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))  # in pieces: no copy of x in float64
        return np.divide(x, length[:, None], out=x, casting="same_kind"), length


def rows_of(lists: Sequence[Sequence[str]], documents: Embeddings, name: str) -> np.ndarray:
    """Lists of ids as rows of the documents: int32 [n, longest list], -1 where a list is shorter.

    Raises:
      ValueError: if an id is not among the documents.
    """
    unknown = unknown_ids(lists, documents)
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} ids are not among the documents, the first {unknown[:SHOWN]}; ids are separated "
            "by spaces, so an id that contains a space cannot be named"
        )
    number = {identity: row for row, identity in enumerate(documents.ids.tolist())}
    rows = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
    for row, ids in zip(rows, lists, strict=True):
        row[: len(ids)] = [number[x] for x in ids]
    return rows


def unknown_ids(lists: Sequence[Sequence[str]], documents: Embeddings) -> list[str]:
    """The ids that are not among the documents, each once, in order."""
    known = set(documents.ids.tolist())
    return list(dict.fromkeys(x for ids in lists for x in ids if x not in known))


def excluded_rows(queries: Embeddings, documents: Embeddings) -> np.ndarray:
    """Rows of the documents that are no candidates of each query: int32 [q, e], -1 is none.

    A query excludes the documents that it lists, and the document with its own id and modality, unless that is given as
    its answer. An excluded id that is not among the documents excludes nothing.
    """
    kinds = dict(zip(documents.ids.tolist(), documents.modality.tolist(), strict=True))
    given = queries.exclude or [()] * len(queries)
    answers = queries.answers or [()] * len(queries)
    lists = []
    for identity, kind, listed, right in zip(
        queries.ids.tolist(), queries.modality.tolist(), given, answers, strict=True
    ):
        own = [identity] if kinds.get(identity) == kind and identity not in right and identity not in listed else []
        lists.append([*(x for x in listed if x in kinds), *own])
    return rows_of(lists, documents, "exclude")


def numbered(names: np.ndarray, modalities: tuple[str, ...], where: str) -> np.ndarray:
    """Each name as its place among the modalities, int32.

    Raises:
      ValueError: for a name that is not one of them.
    """
    number = {name: i for i, name in enumerate(modalities)}
    unknown = sorted(set(names.tolist()) - set(number))
    if unknown:
        raise ValueError(f"{where}: unknown modality {', '.join(map(repr, unknown))}; expected {', '.join(modalities)}")
    return np.array([number[name] for name in names.tolist()], np.int32)


def check_same_space(queries: Embeddings, documents: Embeddings) -> None:
    """Raises ValueError if queries and documents cannot be of one model."""
    got, expected = queries.vectors.shape[1], documents.vectors.shape[1]
    if got != expected:
        raise ValueError(f"queries have {got} dimensions and documents {expected}; embed both with the same model")


def _array(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"there is no array {name!r}, only {', '.join(arrays) or 'nothing'}")
    return arrays[name]


def _strings(arrays: dict[str, np.ndarray], name: str, like: np.ndarray | None = None) -> np.ndarray:
    x = _array(arrays, name)
    if x.ndim != 1 or x.dtype.kind != "U":
        raise ValueError(f"{name}: got {x.dtype} {list(x.shape)}, expected strings [n]; convert them with .astype(str)")
    if like is not None and len(x) != len(like):
        raise ValueError(f"{name}: got {len(x)} entries for {len(like)} ids; give one for each")
    return x


def _check_names(found: Embeddings) -> None:
    names, counts = np.unique(found.ids, return_counts=True)
    if (counts > 1).any():
        twice = names[counts > 1]
        raise ValueError(f"ids: {len(twice)} occur twice, the first {twice[:SHOWN].tolist()}; ids must be unique")
    empty = np.flatnonzero(np.char.strip(found.modality) == "")
    if len(empty):
        raise ValueError(f"modality: {len(empty)} are empty, the first of {found.ids[empty[:SHOWN]].tolist()}")


def _unit_vectors(x: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    if x.ndim != 2 or x.dtype.kind != "f":
        raise ValueError(f"embeddings: got {x.dtype} {list(x.shape)}, expected floats [n, d]")
    if len(x) != len(ids):
        raise ValueError(f"embeddings: got {len(x)} rows for {len(ids)} ids; give one for each")
    if x.size == 0:
        raise ValueError(f"embeddings: got {list(x.shape)}, expected at least one item and one dimension")
    unit, length = unit_rows(x)
    for fault, rows in (("not finite", ~np.isfinite(length)), ("all zero", length == 0)):
        if rows.any():
            raise ValueError(f"embeddings: {rows.sum()} are {fault}, the first of {ids[rows][:SHOWN].tolist()}")
    off = np.abs(length - 1) > UNIT
    notes = []
    if off.any():
        span = f"{length.min():.3g} to {length.max():.3g}"
        notes = [f"{off.sum()} of {len(x)} embeddings are not of unit length ({span}); they were scaled to it"]
    return unit, notes
