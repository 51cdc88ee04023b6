"""An index as a folder.

index.json                format, model id, notes, statistics, and the number of documents of each modality
documents.jsonl           a line for each document, in the order of the vectors: id, modality, and content and metadata
                          if it has them
vectors-I-J.safetensors   block J of modality I, codes int16 [n, d]; for texts also their bias [n], if there is one
image_bank.npz            the reference images, if there are any
queries.safetensors       vectors and best scores of the fit queries
queries.json              the ids that each fit query excludes

Format 1 has vectors bfloat16 [n, d] instead of codes. It is read, and written as format 2. Format 3 is the index whose
documents are in a database: index.json says which, the two files of queries are the same, and sample.npz has a few
documents, as `vacsr embed` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vacsr_jax.atomic_files import parse_json, read_json, replace_folder, to_json
from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.search import text_entropy
from vacsr_jax.search.filters import check_metadata
from vacsr_jax.search.index import codes
from vacsr_jax.search.index.exact import ExactStore
from vacsr_jax.search.standardize.ranking import FitQueries

FORMAT, READ, STORED = 2, (1, 2), 3
HEADER, DOCUMENTS, QUERIES, EXCLUDED = "index.json", "documents.jsonl", "queries.safetensors", "queries.json"
REFERENCE_IMAGES = "image_bank.npz"  # its name, and the header's "image_bank", have kept the word of format 1


def write(folder: Path, header: dict, store: ExactStore, contents: dict[str, str], fits: dict[str, FitQueries]) -> None:
    """Writes the folder whole or not at all, block by block, so that memory does not hold the index twice.

    Raises:
      ValueError: if the folder holds something that is not an index.
      OSError: if it cannot be written, such as to a full disk; an index that was there is kept.
    """
    write_whole(folder, lambda new: write_files(new, header, store, contents, fits))


def write_whole(folder: Path, write_into: Callable[[Path], None]) -> None:
    """Calls `write_into` on a new folder, which then takes the place of an index, or of nothing; see `write`."""
    refuse_other_folder(folder)
    kept = "the index that was there is kept" if folder.exists() else "nothing was left behind"
    try:
        replace_folder(folder, write_into)
    except (OSError, SafetensorError) as error:  # the second is what safetensors says of a full disk
        raise OSError(f"{folder}: the index could not be written ({error}); {kept}") from error


def refuse_other_folder(folder: Path) -> None:
    """Raises ValueError if a folder holds something that is not an index."""
    if folder.exists() and not (folder / HEADER).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an index; give another name, or remove it")


def write_files(folder: Path, header: dict, store: ExactStore, contents, fits) -> None:
    modalities = {name: store.count(name) for name in store.modalities}
    for i, name in enumerate(modalities):
        start = 0
        for j, block in enumerate(store.codes(name)):
            bias = store.bias(name)[start : start + len(block)]
            tensors = {"codes": np.ascontiguousarray(block)} | ({"bias": bias.copy()} if len(bias) else {})
            save_file(tensors, folder / block_name(i, j))
            start += len(block)
    if store.reference_images is not None:
        text_entropy.save(store.reference_images, folder / REFERENCE_IMAGES)
    with (folder / DOCUMENTS).open("w", encoding="utf-8") as file:
        for name in modalities:
            for x in store.ids(name):
                line = {"id": x, "modality": name} | ({"content": contents[x]} if x in contents else {})
                line |= {"metadata": store.metadata[x]} if x in store.metadata else {}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_fits(folder, fits)
    header = {"format": FORMAT, **header, "dim": store.dim, "modalities": modalities}
    header["image_bank"] = store.reference_images is not None
    (folder / HEADER).write_text(to_json(header), encoding="utf-8")


def write_fits(folder: Path, fits: dict[str, FitQueries]) -> None:
    save_file({key: x for name, fit in fits.items() for key, x in fit_tensors(name, fit)}, folder / QUERIES)
    (folder / EXCLUDED).write_text(json.dumps({name: fit.exclude for name, fit in fits.items()}), encoding="utf-8")


def is_stored(folder: Path) -> bool:
    """Whether a folder is of an index whose documents are in a database."""
    try:
        header = read_json(folder / HEADER)
    except (OSError, ValueError):
        return False  # `read` says what is wrong
    return isinstance(header, dict) and header.get("format") == STORED


def block_name(modality: int, block: int) -> str:
    return f"vectors-{modality}-{block}.safetensors"


def fit_tensors(name: str, fit: FitQueries):
    yield f"{name}/vectors", fit.vectors
    yield from ((f"{name}/top1/{modality}", scores.astype(np.float32)) for modality, scores in fit.top1.items())


def read(
    folder: Path, devices: Sequence[jax.Device] | None
) -> tuple[dict[str, Any], ExactStore, dict[str, str], dict[str, FitQueries]]:
    """Header, store, contents and fit queries, as `write` got them.

    Raises:
      ValueError: naming the folder, if a file is missing, damaged or of another format.
    """
    if not (folder / HEADER).is_file():
        raise ValueError(
            f"{folder} holds no {HEADER}, so it is not an index; make one with `vacsr index` or MixedIndex.save"
        )
    try:
        header = read_json(folder / HEADER)
        if header["format"] not in READ:
            raise ValueError(f"format {header['format']}, this version reads {' and '.join(map(str, READ))}")
        check_fields(header, ("model_id", "stats", "about"))
        ids, contents, metadata = read_documents(folder / DOCUMENTS, header["modalities"])
        store = read_store(folder, header, ids, devices)
        store.metadata.update(metadata)
        return header, store, contents, read_fits(folder, header["modalities"])
    except Exception as error:  # damaged files raise many types
        raise ValueError(f"{folder}: the index cannot be read ({error}); build it again") from error


def check_fields(header: dict, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in header]
    if missing:
        raise ValueError(f"{HEADER} has no {', '.join(missing)}")


def read_documents(
    path: Path, modalities: dict[str, int]
) -> tuple[dict[str, list[str]], dict[str, str], dict[str, dict[str, Any]]]:
    """modality -> ids, id -> content, and id -> metadata."""
    ids: dict[str, list[str]] = {name: [] for name in modalities}
    contents: dict[str, str] = {}
    metadata: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file:
        for line in file:
            document = parse_json(line)
            texts = [document["modality"], document["id"], document.get("content", "")]
            if not all(isinstance(x, str) for x in texts):
                raise ValueError(f"{DOCUMENTS}: got {texts!r:.100}, expected texts for modality, id and content")
            ids[document["modality"]].append(document["id"])
            if "content" in document:
                contents[document["id"]] = document["content"]
            if "metadata" in document:
                [metadata[document["id"]]] = check_metadata([document["metadata"]], 1)
    return ids, contents, metadata


def read_store(folder: Path, header: dict, ids: dict[str, list[str]], devices) -> ExactStore:
    reference_images = text_entropy.load(folder / REFERENCE_IMAGES) if header.get("image_bank") else None
    store = ExactStore(devices, header["dim"], reference_images)
    for i, (name, n) in enumerate(header["modalities"].items()):
        if len(ids[name]) != n:
            raise ValueError(f"{DOCUMENTS} has {len(ids[name])} documents of {name}, expected {n}")
        for j in count():
            if store.count(name) >= n:
                break
            tensors = load_file(folder / block_name(i, j))
            block = tensors["codes"] if header["format"] > 1 else codes.encode(unit_rows(tensors["vectors"])[0])
            store.append(block, ids[name][store.count(name) :][: len(block)], name, tensors.get("bias"))
    return store


def read_fits(folder: Path, modalities: Iterable[str]) -> dict[str, FitQueries]:
    excluded = read_json(folder / EXCLUDED)
    tensors = load_file(folder / QUERIES)
    return {
        name: FitQueries(tensors[f"{name}/vectors"], exclude, {m: tensors[f"{name}/top1/{m}"] for m in modalities})
        for name, exclude in excluded.items()
    }
