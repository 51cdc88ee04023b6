"""A folder of pictures as a source, in the forms of Hugging Face's ImageFolder and of img2dataset.

1. Pictures described by a table: `metadata.jsonl`, `metadata.csv` or `metadata.parquet` in the folder, or one in each
   of its subfolders. A row has a `file_name` (or one column that ends in `_file_name`), relative to the table, texts as
   `captions` (list), `caption` or `text`, a class name or number as `label`, and optionally an `id` (default: the file
   name) and a `split`. Several rows of one picture give it several captions.
2. Pictures with a text beside each: `a.txt`, or a `caption` in `a.json`, for `a.jpg`. img2dataset writes such folders,
   and clip-retrieval reads them.
3. Pictures in a folder for each class.

Where no row has a `split`, and every picture is below a folder such as `train`, `val` or `test`, that folder is its
split. Otherwise a hash of the id divides the pictures; see `splits.divide`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vacsr_jax.data.fields import Fault, captions_of, label_of, split_of, text_of
from vacsr_jax.data.metadata import SUFFIXES, Row, read_rows, with_slashes
from vacsr_jax.data.picture_files import find_pictures, is_hidden, leaves, report_left_out
from vacsr_jax.data.records import Record, RecordSource, check_file, open_records
from vacsr_jax.data.splits import below_split, split_of_folder

METADATA = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


def read_image_folder(
    path: str | os.PathLike,
    *,
    split: str | None = None,
    on_error: str = "raise",
    verify: bool = True,
    caption_key: str = "",
) -> RecordSource:
    """Reads a folder of pictures, or one split of it; the module's docstring describes the forms.

    Args:
      path: the folder.
      split: train, validation, test, or another split that the table names; None: all.
      on_error: "raise" stops at the first error; "skip" leaves its record out and notes it in `skipped`.
      verify: True decodes every image once now (1,389 emoji take 0.4 s), because a broken image would later stop
        training and could not be skipped. False, for huge folders, only checks that the files exist.
      caption_key: the field of the captions; "": captions, caption or text.

    Raises:
      ValueError: for a bad record, an unknown split, or if no record is left. The message names the file and the line
        and says what to do.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected pictures with a metadata.jsonl, .csv or .parquet")
    tables = find_tables(folder)
    rows = [row for table in tables for row in read_rows(table)] if tables else list(rows_of_files(folder))
    by_folder = _splits_by_folder(folder, rows)
    name = tables[0] if len(tables) == 1 else folder

    def parse(row: Row) -> Record:
        record = parse_row(row, folder, caption_key)
        return dataclasses.replace(record, split=split_of_folder(_below(record.file, folder))) if by_folder else record

    return open_records(rows, parse, where=name, split=split, on_error=on_error, verify=verify, find=find_file(folder))


def find_tables(folder: Path) -> list[Path]:
    """The metadata files of a folder; if it has none itself, those of its subfolders; else those of data/'s subfolders.

    Raises:
      ValueError: if a folder has two.
    """
    for places in ([folder], _subfolders(folder), _subfolders(folder / "data")):
        found = [[place / name for name in METADATA if (place / name).is_file()] for place in places]
        if twice := next((tables for tables in found if len(tables) > 1), None):
            names = " and ".join(table.name for table in twice)
            raise ValueError(f"{twice[0].parent} holds {names}; keep one of them")
        if any(found):
            return [table for tables in found for table in tables]
    return []


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def rows_of_files(folder: Path) -> Iterator[Row]:
    """A row for each picture: with the text beside it or, where no picture has one, with its folder as label.

    Raises:
      ValueError: if there is neither.
    """
    pictures = find_pictures(folder)
    texts = {".txt": _text_file, ".json": _json_file}
    beside = {
        name: [suffix for suffix in texts if (folder / name).with_suffix(suffix).is_file()] for name in pictures.files
    }
    described = any(beside.values())
    labels = _class_folders(list(pictures.files))
    if not described and not all(labels.values()):
        raise ValueError(
            f"{folder}: no {', '.join(METADATA)}, no text beside a picture (a.txt for a.jpg), and no folder for each "
            "class; add one of them, such as a metadata.jsonl with one JSON object a line: file_name and captions"
        )
    if not pictures.files:
        raise ValueError(f"{folder}: no {', '.join(METADATA)} and no picture; give a folder with pictures")
    left_out = {kind: n for kind, n in pictures.left_out.items() if not (described and kind in texts)}
    report_left_out(folder, left_out)
    for name in pictures.files:
        where = str(folder / name)
        fields: dict[str, Any] | Fault = {"label": labels[name]}
        if described:
            fields = {}
            for suffix in beside[name][:1]:
                fields = texts[suffix]((folder / name).with_suffix(suffix), where)
        yield Row(where, folder, fields if isinstance(fields, Fault) else {**fields, "file_name": name})


def _class_folders(names: list[str]) -> dict[str, str]:
    """The innermost folder of each picture, which is its class; "" if that is no more than a split's folder."""
    in_splits = all(split_of_folder(name) for name in names)
    return {name: PurePosixPath(below_split(name) if in_splits else name).parent.name for name in names}


def _text_file(file: Path, where: str) -> dict[str, Any] | Fault:
    try:
        return {"caption": file.read_text(encoding="utf-8-sig").strip()}
    except UnicodeDecodeError as error:
        return Fault("bad caption", where, f"{file} is not UTF-8 text ({error})")


def _json_file(file: Path, where: str) -> dict[str, Any] | Fault:
    try:
        fields = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Fault("malformed line", where, f"{file} is not JSON ({error})")
    if not isinstance(fields, dict):
        return Fault("malformed line", where, f"{file}: got {type(fields).__name__}, expected a JSON object")
    return {name: value for name, value in fields.items() if name not in ("file_name", "id", "split", "label")}


def parse_row(row: Row, folder: Path, caption_key: str = "") -> Record:
    """A row as a record; a `Fault` if it does not describe a picture of the folder."""
    fields, where = row.checked(), row.where
    key = _file_key(fields)
    file_name = with_slashes(text_of(fields, key, where), row.folder)
    path = Path(os.path.normpath(row.folder / file_name))  # so that a.png and b/../a.png are the same file
    if "\0" in file_name or leaves(path, folder):
        raise Fault("path outside", where, f"{key} {file_name!r} leaves the folder; copy the image into it")
    if isinstance(fields.get("id"), int):
        fields["id"] = str(fields["id"])
    default = file_name if row.folder == folder else _below(path, folder)
    return Record(
        where=where,
        file=path,
        id=text_of(fields, "id", where) if "id" in fields else default,
        captions=captions_of(fields, where, caption_key),
        split=split_of(fields, where),
        label=label_of(fields, where),
        fields=fields,
    )


def _file_key(fields: dict[str, Any]) -> str:
    others = [name for name in fields if name.endswith("_file_name")]
    return others[0] if "file_name" not in fields and len(others) == 1 else "file_name"


def _below(file: Any, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _splits_by_folder(folder: Path, rows: Sequence[Row]) -> bool:
    """Whether the pictures' folders name their splits: all of them do, and no row has a split."""
    good = [row.fields for row in rows if isinstance(row.fields, dict)]
    if any(fields.get("split") is not None for fields in good):
        return False
    files = [row.folder / str(row.fields.get(_file_key(row.fields))) for row in rows if isinstance(row.fields, dict)]
    named = [split_of_folder(_below(file, folder)) for file in files]
    if any(named) and not all(named):
        logging.getLogger(__name__).warning(
            "%s: only %d of %d pictures are in folders named as a split; a hash of the ids divides all of them instead",
            folder,
            sum(name is not None for name in named),
            len(named),
        )
    return bool(named) and all(named)


def find_file(folder: Path) -> Callable[[Record], Record]:
    """Returns a check that a record's file exists; a name is also found in another Unicode normalization.

    macOS, and archives made there, write "é" as two characters, where most tables have one.
    """
    listings: dict[Path, dict[str, str]] = {}

    def entry(parent: Path, name: str) -> str:
        if parent not in listings:
            names = os.listdir(parent) if parent.is_dir() else []
            listings[parent] = {unicodedata.normalize("NFC", other): other for other in names}
        return listings[parent].get(unicodedata.normalize("NFC", name), name)

    def check(record: Record) -> Record:
        assert isinstance(record.file, Path)
        if not record.file.name.isascii() or not record.id.isascii():
            path = folder
            for part in Path(os.path.relpath(record.file, folder)).parts:
                path = path / (part if (path / part).exists() else entry(path, part))
            record = dataclasses.replace(record, file=path)
        return check_file(record)

    return check
