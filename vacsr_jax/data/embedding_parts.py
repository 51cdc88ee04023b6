"""A folder of embeddings in parts: written one by one, resumed after a kill, shared by several processes.

manifest.json     the job: format, model, inputs, number of images and texts, part_size, draft
part-00012.npz    items 12 * part_size and on: embeddings float32 [n, d], ids [n], modality [n], model_id, job

Images come first; the first text begins a new part. Each part is written under another name and then renamed, so it is
there whole or not at all. `job` is the manifest's hash: a part of another job is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import read_json, replace_whole, to_json, write_text
from vacsr_jax.safe_npz import read_npz

FORMAT = 1
MANIFEST = "manifest.json"
IMAGE, TEXT = "image", "text"

# What differs between two jobs -> what a user can do about it.
ADVICE = {
    "format": "embed into another folder",
    "model": "give that model, or another --out",
    "draft": "give --draft as then, or another --out",
    "images": "the pictures have changed: give another --out",
    "texts": "the texts have changed: give another --out",
    "inputs": "names or sizes of pictures, or texts, have changed: give another --out",
    "part_size": "give that --part_size, or another --out",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What a folder holds.

    Attributes:
      model: the model's fingerprint.
      inputs: a hash of all that is embedded.
      images, texts: how many there are.
      part_size: items of a part; the last part of images and the last part of texts may be smaller.
      draft: whether JPEGs were decoded at a reduced size.
    """

    model: str
    inputs: str
    images: int
    texts: int
    part_size: int
    draft: bool = False
    format: int = FORMAT

    def __post_init__(self):
        if self.part_size < 1:
            raise ValueError(f"--part_size: got {self.part_size}, expected at least 1")

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def image_parts(self) -> int:
        return -(-self.images // self.part_size)

    def __len__(self) -> int:
        """The number of parts."""
        return self.image_parts - (-self.texts // self.part_size)

    def part(self, number: int) -> tuple[str, range]:
        """The modality of a part, and which of its items are in it."""
        texts = number >= self.image_parts
        start = (number - texts * self.image_parts) * self.part_size
        return (TEXT if texts else IMAGE), range(
            start, min(start + self.part_size, self.texts if texts else self.images)
        )

    def shard(self, index: int, count: int) -> list[int]:
        """The parts of one shard out of `count`: every count-th."""
        return list(range(index, len(self), count))


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npz"


def open_folder(folder: Path, job: Job) -> None:
    """Makes the folder of a job, or checks that it is one of the same job.

    Raises:
      ValueError: if it holds anything else; the message says what differs and what to do.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if folder.is_file() or (folder.is_dir() and any(not x.name.startswith(".") for x in folder.iterdir())):
            raise ValueError(f"{folder} exists and is not a folder of embeddings; give another --out")
        write_text(manifest, to_json(dataclasses.asdict(job)))
    found = read_manifest(folder)  # also after writing it: another process may have begun another job at once
    for name, advice in ADVICE.items():
        got, expected = getattr(found, name), getattr(job, name)
        if got != expected:
            raise ValueError(f"{folder} holds embeddings of another job ({name} {got}, now {expected}); {advice}")


def read_manifest(folder: Path) -> Job:
    """The job of a folder; ValueError, naming the file, if it does not say."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}; expected a folder that `vacsr embed --out` made")
    found, types = read_json(path), {field.name: field.type for field in dataclasses.fields(Job)}
    if (
        not isinstance(found, dict)
        or found.keys() != types.keys()
        or any(type(found[name]).__name__ != kind for name, kind in types.items())
        or min(found["images"], found["texts"]) < 0
    ):
        raise ValueError(f"{path} is damaged or of another version; expected {', '.join(types)}")
    return Job(**found)


def write_part(folder: Path, number: int, job: Job, vectors: np.ndarray, ids: list[str]) -> None:
    """Writes one part, whole or not at all, also if the machine loses power."""
    modality = np.full(len(ids), job.part(number)[0])
    arrays: dict[str, Any] = {"embeddings": vectors, "ids": np.array(ids, str), "modality": modality}
    arrays |= {"model_id": np.array(job.model), "job": np.array(job.hash)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())

    replace_whole(part_path(folder, number), write)


def finished(folder: Path, job: Job, numbers: list[int]) -> list[int]:
    """Those of the parts that are there and whole. A warning names each that is damaged and has to be made again.

    Removes what a killed process left of them.
    """
    found = []
    for number in numbers:
        path = part_path(folder, number)
        for left in folder.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
        if path.exists():
            try:
                read_part(path, job)
                found.append(number)
            except ValueError as error:
                warnings.warn(f"{error}; embedding it again", stacklevel=2)
    return found


def read_part(path: Path, job: Job) -> dict[str, np.ndarray]:
    """The arrays of a part; ValueError, naming the file, if it is damaged or of another job."""
    arrays = read_npz(path)
    try:
        if str(arrays["job"]) != job.hash:
            raise ValueError("it is of another job than the folder's manifest")
        if len(arrays["embeddings"]) != len(arrays["ids"]):
            raise ValueError(f"it has {len(arrays['embeddings'])} embeddings for {len(arrays['ids'])} ids")
    except KeyError as error:
        raise ValueError(f"{path}: there is no array {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return arrays


def read_parts(folder: Path) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    """Each part's file and arrays, in order and one at a time in memory; empty parts are left out.

    Raises:
      ValueError: if a part is missing or damaged, or all are empty.
    """
    job, some = read_manifest(folder), False
    there = {path.name for path in folder.glob("part-*.npz")}
    names = (part_path(folder, number).name for number in range(len(job)))
    missing = next((name for name in names if name not in there), None)
    if missing:
        raise ValueError(
            f"{folder}: {missing} is missing, and {len(job) - len(there)} of {len(job)} parts in all; run the same "
            "`vacsr embed` again, every shard of it"
        )
    for number in range(len(job)):
        path = part_path(folder, number)
        arrays = read_part(path, job)
        if len(arrays["ids"]):
            some = True
            yield path, arrays
    if not some:
        raise ValueError(f"{folder}: holds no embedding; no picture could be read")
