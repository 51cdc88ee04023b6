"""Reads pairs of embeddings in the forms that people have them in; see `read_pairs`."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vacsr_jax.data import embedding_parts
from vacsr_jax.data.embedding_pairs import EmbeddingPairs
from vacsr_jax.data.embeddings import read_embeddings
from vacsr_jax.data.vectors import Vectors, join
from vacsr_jax.safe_npz import read_npy, read_npz

IMAGES, TEXTS = "image_embeddings", "text_embeddings"
FORMS = (
    f"an npz of {IMAGES} and {TEXTS}, a folder with img_emb/ and text_emb/ (clip-retrieval), a parquet file, or what "
    "`vacsr embed` writes"
)
PARQUET_LIMIT = 2**31  # bytes of vectors that are decoded into memory; a parquet file cannot be mapped
COLUMNS = {  # ours -> what others call it
    "image_embeddings": ("image_embedding", "img_emb", "image_emb"),
    "text_embeddings": ("text_embedding", "text_emb"),
    "image_ids": ("image_id", "image_path"),
    "text_ids": ("text_id",),
    "texts": ("text", "caption"),
    "split": (),
}


def read_pairs(path: str | Path) -> EmbeddingPairs:
    """Reads and checks pairs of embeddings. The same file is read once by a process, until it changes.

    The forms: an npz (`read_npz_pairs`), a folder as clip-retrieval writes it, a parquet file with lists of numbers,
    and an npz or folder that `vacsr embed` wrote. Arrays of .npy files, and of npz files that are not compressed, are
    mapped into memory.

    Raises:
      ValueError: naming the file, and the row where there is one, if anything is missing or does not fit.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder; expected {FORMS}")
    newest = max((os.stat(x).st_mtime_ns for x in (path, *(path.rglob("*") if path.is_dir() else ()))), default=0)
    return _read(path, newest)


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> EmbeddingPairs:
    if path.suffix == ".parquet":
        pairs = read_parquet_pairs(path)
    elif (path / "img_emb").is_dir():
        pairs = read_clip_retrieval(path)
    elif (path / embedding_parts.MANIFEST).is_file():
        pairs = pairs_of_embedded(path)
    elif path.is_dir():
        raise ValueError(f"{path}: it has no img_emb/ and no {embedding_parts.MANIFEST}; expected {FORMS}")
    else:
        pairs = read_npz_pairs(path)
    return pairs.check()


def read_npz_pairs(path: Path) -> EmbeddingPairs:
    """An npz with image_embeddings [n, d_v] and text_embeddings [m, d_t], or one that `vacsr embed` wrote.

    Optional: image_of int [m], the row of each text's image (if it is not there, n must be m, and row i belongs to row
    i); image_ids [n], text_ids [m], texts [m], split [n] of strings; image_model_id and text_model_id, or model_id.
    """
    arrays = read_npz(path, mapped=(IMAGES, TEXTS))
    if "embeddings" in arrays and IMAGES not in arrays:
        return pairs_of_embedded(path)
    for name in (IMAGES, TEXTS):
        if name not in arrays:
            raise ValueError(f"{path}: there is no array {name!r}, only {', '.join(arrays) or 'nothing'}")
    return _pairs(path, arrays, _vectors(path, IMAGES, arrays[IMAGES]), _vectors(path, TEXTS, arrays[TEXTS]))


def read_clip_retrieval(folder: Path) -> EmbeddingPairs:
    """clip-retrieval's folder: img_emb/*.npy and text_emb/*.npy, row by row, and metadata/*.parquet if there is one.

    Rows with the same image_path in the metadata are texts of the same image.
    """
    sides = {}
    for name in ("img_emb", "text_emb"):
        files = sorted((folder / name).glob("*.npy"), key=_number)
        if not files:
            raise ValueError(f"{folder / name}: no .npy file; expected {FORMS}")
        sides[name] = _vectors(folder / name, name, *(read_npy(file, mapped=True) for file in files))
    arrays: dict[str, np.ndarray] = {}
    for file in sorted((folder / "metadata").glob("*.parquet"), key=_number):
        for name, column in _columns(file, ("image_ids", "texts", "split")).items():
            arrays[name] = np.concatenate([arrays[name], column]) if name in arrays else column
    images, texts = sides["img_emb"], sides["text_emb"]
    paths = arrays.get("image_ids")
    if paths is not None and len(paths) == len(images) == len(texts):
        _, first, group = np.unique(paths, return_index=True, return_inverse=True)
        if len(first) < len(paths):
            arrays |= {"image_of": group, "image_ids": paths[first]}
            if "split" in arrays:
                arrays["split"] = arrays["split"][first]
            images = images.take(first)
    return _pairs(folder, arrays, images, texts)


def read_parquet_pairs(path: Path) -> EmbeddingPairs:
    """A parquet file, one pair a row: lists image_embeddings and text_embeddings, and image_id, text_id, text, split.

    Rows with the same image_id are texts of the same image.
    """
    arrays = _columns(path, tuple(COLUMNS))
    for name in (IMAGES, TEXTS):
        if name not in arrays:
            raise ValueError(f"{path}: there is no column {name!r}; expected lists of numbers")
    images, texts = (_vectors(path, name, arrays.pop(name)) for name in (IMAGES, TEXTS))
    if "image_ids" in arrays:
        arrays["image_ids"], first, arrays["image_of"] = np.unique(
            arrays["image_ids"], return_index=True, return_inverse=True
        )
        if "split" in arrays:
            arrays["split"] = arrays["split"][first]
        images = images.take(first)
    return _pairs(path, arrays, images, texts)


def pairs_of_embedded(path: Path) -> EmbeddingPairs:
    """Pairs in what `vacsr embed` writes: a text's `answers` names its image.

    Without `answers`, and with as many texts as images, they are paired in their order, with a warning.
    """
    found = read_embeddings(path)
    images, texts = (np.flatnonzero(found.modality == kind) for kind in (embedding_parts.IMAGE, embedding_parts.TEXT))
    if not len(images) or not len(texts):
        raise ValueError(f"{path}: {len(images)} images and {len(texts)} texts, expected some of both")
    ids = found.ids
    if found.answers is not None:
        number = {identity: i for i, identity in enumerate(ids[images].tolist())}
        named = [(found.answers[row] or ("",))[0] for row in texts]
        wrong = next((i for i, name in enumerate(named) if name not in number), None)
        if wrong is not None:
            raise ValueError(
                f"{path}: answers: text {str(ids[texts[wrong]])!r} names {named[wrong]!r}, which is no image here"
            )
        image_of = np.array([number[name] for name in named])
    elif len(images) == len(texts):
        warnings.warn(f"{path}: text i is paired with image i, since the file does not pair them", stacklevel=2)
        image_of = np.arange(len(texts))
    else:
        raise ValueError(
            f"{path}: {len(images)} images and {len(texts)} texts without `answers`, so nothing says which belong "
            "together; write it with `vacsr embed --pairs`"
        )
    vectors = join([found.vectors])
    return EmbeddingPairs(
        path,
        vectors.take(images),
        vectors.take(texts),
        image_of,
        ids[images],
        ids[texts],
        image_model=found.model_id,
        text_model=found.model_id,
    )


def _pairs(path: Path, arrays: dict[str, np.ndarray], images: Vectors, texts: Vectors) -> EmbeddingPairs:
    image_of = arrays.get("image_of")
    if image_of is None:
        if len(images) != len(texts):
            raise ValueError(
                f"{path}: {len(images)} images and {len(texts)} texts without image_of; give the row of each text's "
                "image"
            )
        image_of = np.arange(len(texts))

    def strings(name: str) -> np.ndarray | None:
        x = arrays.get(name)
        if x is not None and x.dtype.kind in "iu" and name.endswith("_ids"):
            return x.astype(str)
        if x is not None and (x.dtype.kind != "U" or x.ndim != 1):
            raise ValueError(
                f"{path}: {name}: got {x.dtype} {list(x.shape)}, expected strings; convert them with .astype(str)"
            )
        return x

    both = strings_or_empty(arrays.get("model_id"))
    return EmbeddingPairs(
        path,
        images,
        texts,
        image_of,
        strings("image_ids"),
        strings("text_ids"),
        strings("texts"),
        strings("split"),
        strings_or_empty(arrays.get("image_model_id")) or both,
        strings_or_empty(arrays.get("text_model_id")) or both,
    )


def strings_or_empty(x: np.ndarray | None) -> str:
    """The string in an array of one, or "" for anything else."""
    return str(x) if x is not None and x.shape == () and x.dtype.kind == "U" else ""


def _vectors(path: Path, name: str, *parts: np.ndarray) -> Vectors:
    try:
        return join(parts)
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from error


def _number(file: Path) -> tuple[int, str]:
    # img_emb_10 comes after img_emb_9.
    found = re.findall(r"\d+", file.stem)
    return (int(found[-1]) if found else -1), file.name


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the columns that a parquet file has, under our names.

    Raises:
      ValueError: if pyarrow is missing, the file cannot be read, or a column has another type.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # a file of its own, which `import pyarrow` does not load
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pyarrow; pip install 'vacsr_jax[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            chosen = {name: next((x for x in (name, *COLUMNS[name]) if x in there), None) for name in names}
            found = {}
            for name, column in chosen.items():
                if column is not None:
                    convert = _list_column if name in (IMAGES, TEXTS) else _string_column
                    found[name] = _rows(file, column, convert)
            return found
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}); write it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _rows(file, column: str, convert: Callable) -> np.ndarray:
    parts, size, start = [], 0, 0
    for group in range(file.num_row_groups):
        part = convert(file.read_row_group(group, columns=[column]).column(0), column, start)
        parts.append(part)
        size, start = size + part.nbytes, start + len(part)
        if size > PARQUET_LIMIT and part.dtype.kind != "U":
            raise ValueError(
                f"column {column!r} holds more than {PARQUET_LIMIT / 2**30:.0f} GiB of vectors, and parquet cannot be "
                "mapped into memory; write the vectors as .npy files (img_emb/, text_emb/) or as an npz"
            )
    if not parts:
        raise ValueError(f"column {column!r} is empty")
    return np.concatenate(parts)


def _list_column(column, name: str, start: int) -> np.ndarray:
    column = column.combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if column.null_count or len(np.unique(lengths)) != 1:
        row = int(np.flatnonzero(~(lengths == lengths[0]))[0]) if len(lengths) else 0
        raise ValueError(
            f"column {name!r}: row {start + row} has {lengths[row]:.0f} numbers and the first row {lengths[0]:.0f}"
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    if values.dtype.kind != "f":
        raise ValueError(f"column {name!r}: got lists of {values.dtype}, expected lists of floats")
    return values.astype(np.float16 if values.dtype == np.float16 else np.float32).reshape(len(lengths), -1)


def _string_column(column, name: str, start: int) -> np.ndarray:
    values = column.to_pylist()
    missing = next((i for i, x in enumerate(values) if x is None), None)
    if missing is not None:
        raise ValueError(f"column {name!r}: row {start + missing} is empty")
    return np.array([str(x) for x in values], str)
