"""A folder of pictures with a `metadata.jsonl` (Hugging Face's ImageFolder) as a source.

Each line is a JSON object. It has a `file_name`, texts as `captions` (list), `caption` or `text` (string), a class name
as `label`, and optionally an `id` (default: the file name) and a `split`. If no line has a `split`, a hash of the id
divides the pictures 80/10/10 into train, validation and test, so a picture keeps its split when others come or go.
`val`, `valid` and `dev` mean `validation`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import decode_picture
from vacsr_jax.data.picture_files import leaves

_SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
_TEXT_KEYS = ("captions", "caption", "text")
# JSON can contain half a surrogate pair, which tokenizers and file systems reject.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class _Fault(ValueError):
    """An error in one line or in the image that the line names."""

    def __init__(self, reason: str, where: str, detail: str):
        super().__init__(f"{where}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class _Record:
    where: str  # metadata file and line number, for messages
    path: Path
    id: str
    captions: list[str]
    split: str | None
    label: str | None
    fields: dict


@dataclass(frozen=True)
class ImageFolder:
    """A `Source` that opens images on demand.

    Attributes beyond the protocol's:
      records: the JSON object of each image, as in the file.
      splits: the split of each image, from the file or from the hash of its id.
      skipped: reason -> the messages of the skipped records; empty unless `on_error="skip"`.
    """

    ids: Sequence[str]
    captions: Sequence[Sequence[str]]
    labels: np.ndarray | None
    class_names: Sequence[str]
    records: Sequence[dict]
    splits: Sequence[str]
    skipped: dict[str, list[str]]
    _records: Sequence[_Record]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 [height, width, 3]; see `decoding.decode_image`.

        Raises:
          ValueError: if the file has become unreadable; the message names the metadata file and the line.
        """
        return np.asarray(self.picture(index))

    def picture(self, index: int) -> Image.Image:
        """Image `index` as a PIL image; see `image`."""
        return _decode(self._records[index])


def read_image_folder(
    path: str | os.PathLike, *, split: str | None = None, on_error: str = "raise", verify: bool = True
) -> ImageFolder:
    """Reads a folder with a `metadata.jsonl`, or one split of it.

    Args:
      path: the folder.
      split: a value of the file's `split` fields; train, validation or test if it has none; None: all.
      on_error: "raise" stops at the first error; "skip" leaves its record out and notes it in `skipped`.
      verify: True decodes every image once now (1,389 emoji take 0.4 s), because a broken image would later stop
        training and could not be skipped. False, for huge folders, only checks that the files exist.

    Raises:
      ValueError: for a bad record, an unknown split, or if no record is left. The message names the file and the line
        and says what to do.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error: got {on_error!r}, expected 'raise' or 'skip'")
    metadata = Path(path) / "metadata.jsonl"
    if not metadata.is_file():
        raise ValueError(f"{metadata}: no such file; expected one JSON object a line with file_name and captions")
    skipped: dict[str, list[str]] = {}
    on_fault = None if on_error == "raise" else skipped
    records = list(_keep(_parse_line, _lines(metadata), on_fault))
    records = list(_keep(_same_fields(records), records, on_fault))
    class_names = sorted({r.label for r in records if r.label is not None})  # of all splits, which share the numbering
    present = _keep(_check_file, _of_split(records, split, metadata), on_fault)
    records = list(_keep(_decoded, present, on_fault, parallel=True) if verify else present)
    _report(metadata, records, skipped)
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[r.label] for r in records]) if class_names else None
    return ImageFolder(
        ids=[r.id for r in records],
        captions=[r.captions for r in records],
        labels=labels,
        class_names=class_names,
        records=[r.fields for r in records],
        splits=[_split_of(r) for r in records],
        skipped=skipped,
        _records=records,
    )


def _keep(check: Callable, items: Iterable, skipped: dict | None, parallel: bool = False) -> Iterator:
    """Yields `check(item)` for each item, in order. A fault is raised, or noted in `skipped` and its item left out."""

    def attempt(item):
        try:
            return check(item)
        except _Fault as fault:
            return fault

    with ThreadPoolExecutor() as pool:
        for result in pool.map(attempt, items) if parallel else map(attempt, items):
            if not isinstance(result, _Fault):
                yield result
            elif skipped is None:
                pool.shutdown(cancel_futures=True)
                raise result
            else:
                skipped.setdefault(result.reason, []).append(str(result))


def _lines(metadata: Path) -> Iterator[tuple[Path, int, bytes]]:
    # Split at newlines only: str.splitlines would also split a caption at U+2028.
    for number, line in enumerate(metadata.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield metadata, number, line


def _parse_line(item: tuple[Path, int, bytes]) -> _Record:
    metadata, number, line = item
    where = f"{metadata}:{number}"
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _Fault("malformed line", where, f"not JSON ({error}); write one JSON object a line") from None
    if not isinstance(fields, dict):
        raise _Fault("malformed line", where, f"got {type(fields).__name__}, expected a JSON object")
    file_name = _text(fields, "file_name", where)
    if isinstance(fields.get("id"), int):
        fields["id"] = str(fields["id"])
    label, split = (_text(fields, k, where) if fields.get(k) is not None else None for k in ("label", "split"))
    return _Record(
        where=where,
        path=_inside(metadata.parent, file_name, where),
        id=_text(fields, "id", where) if "id" in fields else file_name,
        captions=_captions(fields, where),
        split=None if split is None else _SPLIT_NAMES.get(split, split),
        label=label,
        fields=fields,
    )


def is_text(value: object) -> TypeGuard[str]:
    """Tells whether a value is a str that is not blank and can be encoded."""
    return isinstance(value, str) and bool(value.strip()) and not _HALF_CHARACTER.search(value)


def _text(fields: dict, key: str, where: str) -> str:
    value = fields.get(key)
    if not is_text(value):
        got = repr(value) if key in fields else "nothing"
        raise _Fault(f"bad {key}", where, f"{key}: got {got}, expected a non-empty string")
    return value


def _captions(fields: dict, where: str) -> list[str]:
    given = [key for key in _TEXT_KEYS if key in fields]
    if not given and fields.get("label") is None:
        raise _Fault("no caption", where, "neither captions, caption, text nor label; give one of them")
    if len(given) > 1:
        raise _Fault("bad caption", where, f"has {' and '.join(given)}; keep one of them")
    if given != ["captions"]:
        return [_text(fields, key, where) for key in given]
    captions = fields["captions"]
    if not isinstance(captions, list) or not captions:
        raise _Fault("bad caption", where, f"captions: got {captions!r}, expected a list of at least one string")
    for k, caption in enumerate(captions):
        if not is_text(caption):
            raise _Fault("bad caption", where, f"captions[{k}]: got {caption!r}, expected a non-empty string; fix it")
    return captions


def _inside(folder: Path, file_name: str, where: str) -> Path:
    path = Path(os.path.normpath(folder / file_name))  # so that a.png and b/../a.png are the same file
    if "\0" in file_name or leaves(path, folder):
        raise _Fault("path outside", where, f"file_name {file_name!r} leaves the folder; copy the image into it")
    return path


def _same_fields(records: Sequence[_Record]) -> Callable[[_Record], _Record]:
    """Returns a check of one record against all the others."""
    splits, labels = (any(getattr(r, name) is not None for r in records) for name in ("split", "label"))
    first_with: dict[str, dict[Any, _Record]] = {"id": {}, "path": {}}

    def check(record: _Record) -> _Record:
        for name, seen in first_with.items():
            earlier = seen.setdefault(getattr(record, name), record)
            if earlier is not record:
                detail = f"repeats the {name} {getattr(record, name)} of {earlier.where}; keep one"
                raise _Fault(f"duplicate {name}", record.where, detail)
        for name, used in (("split", splits), ("label", labels)):
            if used and getattr(record, name) is None:
                raise _Fault(f"no {name}", record.where, f"no {name}, but other lines have one; add it")
        return record

    return check


def _of_split(records: Sequence[_Record], split: str | None, metadata: Path) -> list[_Record]:
    if split is None or not records:
        return list(records)
    split = _SPLIT_NAMES.get(split, split)
    known = sorted({_split_of(r) for r in records})
    if split not in known:
        raise ValueError(f"{metadata}: no image of split {split!r}; expected one of {', '.join(known)}")
    return [r for r in records if _split_of(r) == split]


def _split_of(record: _Record) -> str:
    return record.split or hashed_split(record.id)


def hashed_split(identity: str) -> str:
    """Returns train, validation or test, 80/10/10, by a hash of the id."""
    bucket = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def _check_file(record: _Record) -> _Record:
    if not os.path.isfile(record.path):
        raise _Fault("missing image", record.where, f"no file {record.path}; add it or remove the line")
    if record.path.stat().st_size == 0:
        raise _Fault("empty image", record.where, f"{record.path} has zero bytes; replace it or remove the line")
    return record


def _decoded(record: _Record) -> _Record:
    _decode(record)
    return record


def _decode(record: _Record) -> Image.Image:
    try:
        return decode_picture(record.path)
    except Exception as error:  # Pillow raises half a dozen types of exception for broken files
        detail = f"{record.path} cannot be read ({error}); replace it or remove the line"
        raise _Fault("unreadable image", record.where, detail) from error


def _report(metadata: Path, records: Sequence[_Record], skipped: dict[str, list[str]]) -> None:
    counts = ", ".join(f"{len(messages)} {reason}" for reason, messages in skipped.items())
    if not records:
        raise ValueError(f"{metadata}: no record is left ({counts or 'the file is empty'}); add or fix some")
    if skipped:
        first = next(iter(skipped.values()))[0]
        logging.getLogger(__name__).warning("%s: skipped %s; first: %s", metadata, counts, first)
