"""Readers, one per kind of manifest, that make a table of (path, label, name) without opening an image."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from vacsr_jax.atomic_files import read_json
from vacsr_jax.data.classification.benchmarks import CLASS_NAMES, SPLIT_FILES, Benchmark
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import below
from vacsr_jax.data.splits import hashed_split

SPLITS = ("train", "val", "test")
ARCHIVE = "the archive of its images"


class Item(NamedTuple):
    """One image: its path below the benchmark's `images`, and the number and name of its class."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class Table:
    """All images of a data set.

    Attributes:
      splits: those of train, val and test that exist. Items keep the manifest's order, which decides few-shot draws.
      class_names: by label, as spelled in the manifest.
    """

    splits: Mapping[str, Sequence[Item]]
    class_names: Sequence[str]


def read_table(benchmark: Benchmark, root: str | Path, list_paths: Callable[[], Iterable[str]]) -> Table:
    """Reads the table of a benchmark below `root`. `list_paths()` gives the paths of images that no manifest lists.

    Raises:
      ValueError: if the manifest is missing or malformed, or no image is found. The message says where to get it.
    """
    folder = Path(root) / benchmark.folder
    if benchmark.kind == "zhou-json":
        return read_zhou_json(_found(folder / benchmark.manifest, SPLIT_FILES))
    if benchmark.kind == "aircraft-txt":
        return read_aircraft_txt(folder)
    if benchmark.kind == "image-folder":
        return read_labelled_image_folder(folder)
    classes = find_class_names(benchmark, root)
    if benchmark.kind == "index-folders":
        classes = {str(i): name for i, name in enumerate((classes or {}).values())}
    return table_of_folders(benchmark, classes, sorted(list_paths()), folder / benchmark.images)


def _found(path: Path, source: str) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it comes from {source}")
    return path


def read_zhou_json(path: str | Path) -> Table:
    """Reads CoOp's `split_zhou_*.json`: an object of train, val and test, each a list of [path, label, class name].

    Raises:
      ValueError: for a malformed entry, a label with two names, or a label without images; the message names it.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not all(isinstance(values.get(split), list) for split in SPLITS):
        got = ", ".join(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: got {got}, expected an object with the lists train, val and test")
    splits = {split: [_item(row, f"{path}: {split}[{i}]") for i, row in enumerate(values[split])] for split in SPLITS}
    return Table(splits, _names_by_label(splits, str(path)))


def _item(row: object, where: str) -> Item:
    wanted = (str, int, str)
    if not isinstance(row, list) or [type(x) for x in row] != list(wanted) or row[1] < 0:
        raise ValueError(f"{where}: got {row!r}, expected [path, label, class name]")
    return _checked(Item(*row), where)


def _checked(item: Item, where: str) -> Item:
    try:
        below("", item.path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return item


def _names_by_label(splits: Mapping[str, Sequence[Item]], where: str) -> list[str]:
    names: dict[int, str] = {}
    for item in (item for items in splits.values() for item in items):
        if names.setdefault(item.label, item.name) != item.name:
            raise ValueError(
                f"{where}: label {item.label} is both {names[item.label]!r} and {item.name!r}; the labels are mixed up"
            )
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(f"{where}: got labels {sorted(names)[:5]}.., expected 0, 1, 2, ... without a gap")
    return [names[label] for label in range(len(names))]


def read_aircraft_txt(folder: Path) -> Table:
    """Reads FGVC-Aircraft's lists: `variants.txt` in label order, `images_variant_SPLIT.txt` of '<id> <variant>' lines.

    Raises:
      ValueError: if a list is missing, or names an unknown variant.
    """
    variants = _lines(_found(folder / "variants.txt", ARCHIVE))
    number = {name: label for label, name in enumerate(variants)}
    splits = {}
    for split in SPLITS:
        file = _found(folder / f"images_variant_{split}.txt", ARCHIVE)
        pairs = [line.partition(" ")[::2] for line in _lines(file)]
        unknown = sorted({variant for _, variant in pairs} - set(number))
        if unknown:
            raise ValueError(
                f"{file}: variant {unknown[0]!r} is not in variants.txt; the lists are from different releases"
            )
        splits[split] = [
            _checked(Item(f"{image}.jpg", number[variant], variant), str(file)) for image, variant in pairs
        ]
    return Table(splits, variants)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def read_labelled_image_folder(folder: Path) -> Table:
    """Reads an ImageFolder whose metadata has a `label` in each row."""
    found = read_image_folder(folder, verify=False)
    if found.labels is None:
        raise ValueError(f"{folder}: no row of the metadata has a label; add one, the class's name")
    names = {"train": "train", "validation": "val", "test": "test"}
    splits: dict[str, list[Item]] = {}
    for file, split, label in zip(found.files, found.splits, found.labels, strict=True):
        path = PurePath(os.path.relpath(str(file), folder)).as_posix()
        item = Item(path, int(label), found.class_names[label])
        splits.setdefault(names.get(split, split), []).append(item)
    return Table(splits, list(found.class_names))


def find_class_names(benchmark: Benchmark, root: str | Path) -> dict[str, str] | None:
    """Reads class folder -> name, in label order, from the data set's `classnames.txt` or ImageNet's.

    Returns None for a user's own data without such a file.

    Raises:
      ValueError: if a benchmark has no such file, or the file lists a folder twice.
    """
    candidates = [Path(root) / benchmark.folder / benchmark.manifest]
    if benchmark.classes is not None:
        candidates.append(Path(root) / "imagenet" / benchmark.manifest)
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        if benchmark.classes is None:
            return None
        file = _found(candidates[0], CLASS_NAMES)
    pairs = [line.partition(" ")[::2] for line in _lines(file)]
    names = {key: name.strip() or key for key, name in pairs}
    if len(names) != len(pairs):
        raise ValueError(f"{file}: a class is listed twice; expected one line '<folder> <name>' per class")
    return names


def table_of_folders(
    benchmark: Benchmark, classes: Mapping[str, str] | None, paths: Sequence[str], where: Path
) -> Table:
    """Makes a table sorted by label and then by file name, so that it is the same on every file system.

    Raises:
      ValueError: if a class folder is not in `classes`, or a split has no picture in a class folder.
    """
    found: dict[str, dict[str, list[str]]] = {}
    outside: list[str] = []
    for path in paths:
        split, key = _split_and_key(benchmark, path)
        if split is not None:
            found.setdefault(split, {}).setdefault(key, []).append(path)
        else:
            outside.append(path)
    missing = [split for split in benchmark.splits if split not in found and split != "hashed"]
    if missing or not found:
        part = benchmark.splits.get(missing[0], "") if missing else ""
        raise ValueError(f"{where / part}: no picture in a class folder; expected one folder of pictures per class")
    if outside and benchmark.classes is None:  # a benchmark's archive has what it has
        logging.getLogger(__name__).warning(
            "%s: left out %d pictures that are not in a class folder, such as %s", where, len(outside), outside[0]
        )
    present = {key for by_key in found.values() for key in by_key}
    if classes is None:
        classes = {key: key for key in sorted(present)}
    unknown = sorted(present - set(classes))
    if unknown:
        raise ValueError(
            f"{where}: folder {unknown[0]!r} is not in {benchmark.manifest}, which has {len(classes)} classes"
        )
    kept = [key for key in classes if key in present or not benchmark.own_classes]
    splits = {
        split: [Item(p, label, classes[key]) for label, key in enumerate(kept) for p in by_key.get(key, ())]
        for split, by_key in found.items()
    }
    return Table(splits, [classes[key] for key in kept])


def _split_and_key(benchmark: Benchmark, path: str) -> tuple[str | None, str]:
    """Returns the split and class folder of a path, or (None, "") for a file outside the class folders."""
    for split, part in benchmark.splits.items():
        inside = PurePosixPath(path).parts[len(PurePosixPath(part).parts) :]
        if len(inside) == 2 and path.startswith(f"{part}/" if part else ""):
            if split == "hashed":
                split = {"validation": "val"}.get(hashed_split(path), hashed_split(path))
            return split, inside[0]
    return None, ""
