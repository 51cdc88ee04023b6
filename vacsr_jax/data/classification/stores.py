"""Stores of encoded images: a folder, or a data set prepared by tensorflow_datasets as array_record."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vacsr_jax.atomic_files import write_text
from vacsr_jax.data.classification.benchmarks import Benchmark, Tfds
from vacsr_jax.data.decoding import decode_picture
from vacsr_jax.data.picture_files import find_pictures, readable_formats, report_left_out

INDEX = "vacsr_paths.json"  # written beside the array_record files, since computing it takes a pass over all of them


class Store(Protocol):
    """Encoded images by path, in a folder."""

    @property
    def folder(self) -> Path: ...

    def paths(self) -> Sequence[str]: ...

    def has(self, path: str) -> bool: ...

    def read(self, path: str) -> bytes: ...


@dataclass(frozen=True)
class FolderStore:
    """The picture files below a folder."""

    folder: Path

    def paths(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        found, left_out = find_pictures(self.folder)
        report_left_out(self.folder, left_out)
        return list(found)

    def has(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


@dataclass(frozen=True)
class TfdsStore:
    """A prepared TFDS data set, read without TensorFlow. Images are looked up by path, ignoring case."""

    tfds: Tfds
    data_dir: Path

    @property
    def folder(self) -> Path:
        return Path(self.data_dir).expanduser() / self.tfds.builder

    def paths(self) -> list[str]:
        return [path for paths in self._by_split.values() for path in paths]

    def has(self, path: str) -> bool:
        return path.lower() in self._rows

    def read(self, path: str) -> bytes:
        split, row = self._rows[path.lower()]
        return self._images[split][row]["image"]

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            return tfds.builder_from_directory(str(self.folder))
        except Exception as error:  # TFDS raises many types of exception
            raise ValueError(
                f"{self.folder}: no data set prepared by tensorflow_datasets ({error}); prepare it once, on a "
                "machine with TensorFlow: "
                f"tfds.builder({_builder_name(self.tfds)!r}, data_dir=..., file_format='array_record')"
                ".download_and_prepare()"
            ) from None

    @functools.cached_property
    def _images(self) -> dict[str, Any]:
        """Split -> its rows, with images as encoded bytes."""
        import tensorflow_datasets as tfds

        features = self._builder.info.features.items()
        encoded = {name: tfds.decode.SkipDecoding() for name, kind in features if isinstance(kind, tfds.features.Image)}
        try:
            return {split: self._builder.as_data_source(split, decoders=encoded) for split in self.tfds.splits}
        except NotImplementedError:
            raise ValueError(
                f"{self.folder}: prepared as tfrecord, which has no random access; prepare it again with "
                "file_format='array_record'"
            ) from None

    @functools.cached_property
    def _by_split(self) -> dict[str, list[str]]:
        """Split -> the path of each row."""
        sizes = {split: self._builder.info.splits[split].num_examples for split in self.tfds.splits}
        kept = _read_index(self.folder / INDEX, self.tfds.path)
        if {split: len(paths) for split, paths in kept.items()} == sizes:
            return kept
        found = {split: [self._path(split, row) for row in rows] for split, rows in self._images.items()}
        if os.access(self.folder, os.W_OK):
            write_text(self.folder / INDEX, json.dumps({"path": self.tfds.path, "splits": found}))
        return found

    def _path(self, split: str, row: dict[str, Any]) -> str:
        used = (name for name in row if name != "label" and f"{{{name}}}" in self.tfds.path)
        values = {name: row[name].decode() for name in used}
        if "{label}" in self.tfds.path:
            values["label"] = self._builder.info.features["label"].int2str(int(row["label"]))
        return self.tfds.path.format(split=self.tfds.splits[split], **values)

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[str, int]]:
        rows = {path.lower(): (split, row) for split, paths in self._by_split.items() for row, path in enumerate(paths)}
        if len(rows) != len(self.paths()):
            raise ValueError(f"{self.folder}: {len(self.paths()) - len(rows)} paths occur twice; prepare it again")
        return rows


def _builder_name(tfds: Tfds) -> str:
    name, _, version = tfds.builder.rpartition("/")
    return f"{name}:{version}"


def _read_index(file: Path, path: str) -> dict[str, list[str]]:
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index["splits"] if index.get("path") == path else {}


def open_store(benchmark: Benchmark, root: str | Path, tfds_dir: str = "") -> Store:
    """Opens the folder below `root`, or, with `tfds_dir` (TFDS's data_dir), the data set prepared there.

    Raises:
      ValueError: if no TFDS builder has this data set's images unchanged.
    """
    if not tfds_dir:
        return FolderStore(Path(root) / benchmark.folder / benchmark.images)
    if benchmark.tfds is None:
        raise ValueError(f"{benchmark.name}: no TFDS builder has its images unchanged; use a folder")
    return TfdsStore(benchmark.tfds, Path(tfds_dir))


def decode(encoded: bytes, *, plain_rgb: bool) -> Image.Image:
    """Decodes to RGB by PIL's convert("RGB") alone, as CoOp does, or by `decoding.decode_picture`."""
    if not plain_rgb:
        return decode_picture(encoded)
    with Image.open(io.BytesIO(encoded), formats=readable_formats()) as image:
        return image.convert("RGB")
