"""A table of picture paths and captions, one pair a row, as open_clip takes it: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vacsr_jax.data.fields import captions_of, split_of, text_of
from vacsr_jax.data.metadata import Row, read_rows, with_slashes
from vacsr_jax.data.records import Record, RecordSource, check_file, open_records
from vacsr_jax.data.splits import split_of_file

IMAGE_KEYS = ("filepath", "file_name", "image_path", "image", "path", "file")  # the first is open_clip's default
CAPTION_KEYS = ("title", "caption", "captions", "text")
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_caption_table(
    path: str | os.PathLike,
    *,
    split: str | None = None,
    on_error: str = "raise",
    verify: bool = True,
    image_key: str = "",
    caption_key: str = "",
    separator: str = "",
) -> RecordSource:
    """Reads a table, or a folder of tables named by split (`train.csv`, `val.csv`), as a source.

    Rows of the same path are one picture with several captions. A relative path starts at the table's folder or, if
    there is no such file, at the current one, as for open_clip. A column `split` divides the pictures; without one, a
    hash of the paths does; see `splits.divide`.

    Args:
      image_key, caption_key: the columns; "": the first of IMAGE_KEYS and CAPTION_KEYS that the table has.
      separator: of CSV; "": a tab if the first line has one, else a comma.
      split, on_error, verify: as in `read_image_folder`.

    Raises:
      ValueError: for a missing column, a bad row, an unknown split, or if no record is left; it names file and line.
    """
    tables = find_tables(Path(path))
    named = {table: split_of_file(table.name) for table in tables} if len(tables) > 1 else dict.fromkeys(tables)
    rows = [(named[table], row) for table in tables for row in read_rows(table, separator)]
    columns = list(dict.fromkeys(name for _, row in rows if isinstance(row.fields, dict) for name in row.fields))
    image = choose_column(path, columns, image_key, IMAGE_KEYS, "image_key", "paths")
    caption = choose_column(path, columns, caption_key, CAPTION_KEYS, "caption_key", "captions")

    def parse(item: tuple[str | None, Row]) -> Record:
        split_name, row = item
        fields, where = row.checked(), row.where
        name = with_slashes(text_of(fields, image, where), row.folder)
        file = Path(os.path.normpath(row.folder / name))
        if not file.is_file() and Path(name).is_file():
            file = Path(os.path.abspath(name))
        captions = captions_of(fields, where, caption)
        return Record(where, file, name, captions, split_of(fields, where) or split_name, None, fields)

    return open_records(rows, parse, where=path, split=split, on_error=on_error, verify=verify, find=check_file)


def find_tables(path: Path) -> list[Path]:
    """The table itself, or the tables of a folder.

    Raises:
      ValueError: if there is none, or the names of several do not tell their splits.
    """
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected a table of picture paths and captions")
        return [path]
    tables = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.name.startswith("."))
    if not tables:
        raise ValueError(f"{path}: no table ({', '.join(_SUFFIXES)}); give the file, or a folder with train.csv")
    unnamed = [table.name for table in tables if split_of_file(table.name) is None]
    if len(tables) > 1 and unnamed:
        raise ValueError(
            f"{path / unnamed[0]}: its name tells no split; name the tables train, val and test, or give one"
        )
    return tables


def choose_column(
    path: str | os.PathLike, columns: Sequence[str], given: str, usual: Sequence[str], field: str, what: str
) -> str:
    """The column that the config names, or the first usual one.

    Raises:
      ValueError: if the table does not have it.
    """
    if given in columns or (not given and any(name in columns for name in usual)):
        return given or next(name for name in usual if name in columns)
    wanted = repr(given) if given else f"any of {', '.join(usual)}"
    have = ", ".join(columns) or "none"
    raise ValueError(f"{path}: no column {wanted}; name that of the {what}: --config.data.{field}=NAME, of: {have}")
