"""Pictures with texts or classes as records, one for each picture, checked and opened as a `Source`.

Each form of data (an ImageFolder, shards, a table) reads its rows into records. What is the same for all of them is
here: faults that name their place, rows of the same picture, splits, class numbers, and pictures opened on demand.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import decode_picture
from vacsr_jax.data.fields import Fault
from vacsr_jax.data.splits import NAMES, divide


class Stored(Protocol):
    """An encoded picture that is no file of its own, such as a member of a tar file."""

    def open(self) -> BinaryIO: ...


@dataclass(frozen=True)
class Record:
    """A picture.

    Attributes:
      where: the place in the data that describes it, for messages.
      file: a path, or what opens the encoded picture.
      fields: everything that the data says of it.
    """

    where: str
    file: Path | Stored
    id: str
    captions: list[str]
    split: str | None
    label: str | None
    fields: dict[str, Any]


@dataclass(frozen=True)
class RecordSource:
    """A `Source` that opens pictures on demand.

    Attributes beyond the protocol's:
      records: what the data says of each picture.
      files: the path of each picture, or what opens it.
      splits: the split of each picture.
      skipped: reason -> the messages of the skipped records; empty unless faults are skipped.
    """

    ids: Sequence[str]
    captions: Sequence[Sequence[str]]
    labels: np.ndarray | None
    class_names: Sequence[str]
    records: Sequence[dict[str, Any]]
    files: Sequence[Path | Stored]
    splits: Sequence[str]
    skipped: dict[str, list[str]]
    _records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 [height, width, 3]; see `decoding.decode_image`.

        Raises:
          ValueError: if the picture cannot be read; the message names its place in the data.
        """
        return np.asarray(self.picture(index))

    def picture(self, index: int) -> Image.Image:
        """Image `index` as a PIL image; see `image`."""
        return decode(self._records[index])


def open_records(
    rows: Iterable[Any],
    parse: Callable[[Any], Record],
    *,
    where: str | os.PathLike,
    split: str | None,
    on_error: str,
    verify: bool,
    find: Callable[[Record], Record] = lambda record: record,
) -> RecordSource:
    """Reads rows into records, checks them, and returns those of one split as a source.

    Args:
      rows: what `parse` takes.
      parse: row -> record; raises a `Fault`.
      where: the data's name, for messages.
      split: None: all.
      on_error: "raise" stops at the first fault; "skip" leaves its record out and notes it in `skipped`.
      verify: decode every picture of the split now.
      find: a check of a record of the split, before its picture is opened; raises a `Fault`.

    Raises:
      ValueError: for a fault, an unknown split, or if no record is left.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error: got {on_error!r}, expected 'raise' or 'skip'")
    skipped: dict[str, list[str]] = {}
    on_fault = None if on_error == "raise" else skipped
    records = _merged(keep(parse, rows, on_fault), on_fault)
    records = list(keep(_same_fields(records), records, on_fault))
    class_names = sorted({r.label for r in records if r.label is not None}, key=_number_first)  # of all splits
    splits = dict(
        zip((r.id for r in records), divide([r.id for r in records], [r.split for r in records]), strict=True)
    )
    chosen = keep(find, _of_split(records, splits, split, where), on_fault)
    records = list(keep(_decoded, chosen, on_fault, parallel=True) if verify else chosen)
    _report(where, records, skipped)
    number = {name: i for i, name in enumerate(class_names)}
    return RecordSource(
        ids=[r.id for r in records],
        captions=[r.captions for r in records],
        labels=np.array([number[str(r.label)] for r in records]) if class_names else None,
        class_names=class_names,
        records=[r.fields for r in records],
        files=[r.file for r in records],
        splits=[splits[r.id] for r in records],
        skipped=skipped,
        _records=records,
    )


def keep(
    check: Callable[[Any], Any], items: Iterable[Any], skipped: dict[str, list[str]] | None, parallel: bool = False
) -> Iterator[Any]:
    """Yields `check(item)` for each item, in order. A fault is raised, or noted in `skipped` and its item left out."""

    def attempt(item):
        try:
            return check(item)
        except Fault as fault:
            return fault

    with ThreadPoolExecutor() as pool:
        for result in pool.map(attempt, items) if parallel else map(attempt, items):
            if not isinstance(result, Fault):
                yield result
            elif skipped is None:
                pool.shutdown(cancel_futures=True)
                raise result
            else:
                skipped.setdefault(result.reason, []).append(str(result))


def check_file(record: Record) -> Record:
    """Raises a `Fault` if a record's path is no file, or an empty one."""
    assert isinstance(record.file, Path)
    if not os.path.isfile(record.file):
        raise Fault("missing image", record.where, f"no file {record.file}; add it or remove the line")
    if record.file.stat().st_size == 0:
        raise Fault("empty image", record.where, f"{record.file} has zero bytes; replace it or remove the line")
    return record


def decode(record: Record) -> Image.Image:
    """A record's picture; a `Fault` that names its place if it cannot be read."""
    try:
        if isinstance(record.file, Path):
            return decode_picture(record.file)
        with record.file.open() as file:
            return decode_picture(file)
    except Exception as error:  # Pillow raises half a dozen types of exception for broken files
        detail = f"{record.file} cannot be read ({error}); replace it or remove the line"
        raise Fault("unreadable image", record.where, detail) from error


def _decoded(record: Record) -> Record:
    decode(record)
    return record


def _merged(records: Iterable[Record], skipped: dict[str, list[str]] | None) -> list[Record]:
    """Joins rows with the same picture and id, each with captions, into one record."""
    rows: dict[tuple[str, Path | Stored], list[Record]] = {}

    def agree(record: Record) -> Record:
        first = rows.get((record.id, record.file), [record])[0]
        for name in ("split", "label"):
            one, other = getattr(first, name), getattr(record, name)
            if one != other:
                detail = f"{name}: got {other!r}, but {first.where} has {one!r} for the same picture; make them equal"
                raise Fault(f"bad {name}", record.where, detail)
        if first is not record and not (first.captions and record.captions):
            raise Fault("duplicate path", record.where, f"repeats the path {record.file} of {first.where}; keep one")
        return record

    for record in keep(agree, records, skipped):
        rows.setdefault((record.id, record.file), []).append(record)
    return [
        dataclasses.replace(same[0], captions=[text for r in same for text in r.captions]) for same in rows.values()
    ]


def _same_fields(records: Sequence[Record]) -> Callable[[Record], Record]:
    """Returns a check of one record against all the others."""
    splits, labels = (any(getattr(r, name) is not None for r in records) for name in ("split", "label"))
    first_with: dict[str, dict[Any, Record]] = {"id": {}, "path": {}}

    def check(record: Record) -> Record:
        for name, value in (("id", record.id), ("path", record.file)):
            earlier = first_with[name].setdefault(value, record)
            if earlier is not record:
                raise Fault(
                    f"duplicate {name}", record.where, f"repeats the {name} {value} of {earlier.where}; keep one"
                )
        for name, used in (("split", splits), ("label", labels)):
            if used and getattr(record, name) is None:
                raise Fault(f"no {name}", record.where, f"no {name}, but other lines have one; add it")
        return record

    return check


def _of_split(
    records: Sequence[Record], splits: Mapping[str, str], split: str | None, where: str | os.PathLike
) -> list[Record]:
    if split is None or not records:
        return list(records)
    split = NAMES.get(split, split)
    known = sorted(set(splits.values()))
    if split not in known:
        raise ValueError(f"{where}: no image of split {split!r}; expected one of {', '.join(known)}")
    return [r for r in records if splits[r.id] == split]


def _number_first(name: str) -> tuple[int, str]:
    """Sorts numbers by value, before other names: a set of integer labels keeps its order."""
    return (int(name), "") if name.isdecimal() else (1 << 62, name)


def _report(where: str | os.PathLike, records: Sequence[Record], skipped: dict[str, list[str]]) -> None:
    counts = ", ".join(f"{len(messages)} {reason}" for reason, messages in skipped.items())
    if not records:
        raise ValueError(f"{where}: no record is left ({counts or 'the file is empty'}); add or fix some")
    if skipped:
        first = next(iter(skipped.values()))[0]
        logging.getLogger(__name__).warning("%s: skipped %s; first: %s", where, counts, first)
