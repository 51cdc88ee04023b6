"""Rows of the tables that describe pictures: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vacsr_jax.data.fields import Fault

SUFFIXES = (".jsonl", ".csv", ".parquet")


class Row(NamedTuple):
    """A row of a table: its place, for messages, the folder of its file, and its fields or what makes them a fault."""

    where: str
    folder: Path
    fields: dict[str, Any] | Fault

    def checked(self) -> dict[str, Any]:
        """The fields; raises the row's `Fault` if it has none."""
        if isinstance(self.fields, Fault):
            raise self.fields
        return self.fields


def read_rows(file: Path, separator: str = "") -> Iterator[Row]:
    """Yields the rows of a .jsonl, .parquet or other file, which is read as CSV, in order.

    Args:
      separator: of CSV; "": a tab if the first line has one, else a comma.

    Raises:
      ValueError: if the whole file cannot be read.
    """
    if file.suffix == ".jsonl":
        yield from _json_lines(file)
    elif file.suffix == ".parquet":
        yield from _parquet(file)
    else:
        yield from _csv(file, separator)


def with_slashes(name: str, folder: Path) -> str:
    """A path with `/` in place of the backslashes of a table that was written on Windows."""
    return name.replace("\\", "/") if "\\" in name and not os.path.lexists(folder / name) else name


def _json_lines(file: Path) -> Iterator[Row]:
    # Split at newlines only: str.splitlines would also split a caption at U+2028.
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            where = f"{file}:{number}"
            yield Row(where, file.parent, _json_object(line, where))


def _json_object(line: bytes, where: str) -> dict[str, Any] | Fault:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Fault("malformed line", where, f"not JSON ({error}); write one JSON object a line")
    if not isinstance(fields, dict):
        return Fault("malformed line", where, f"got {type(fields).__name__}, expected a JSON object")
    return fields


def _csv(file: Path, separator: str) -> Iterator[Row]:
    # A byte that is not UTF-8 becomes half a surrogate pair, which no text may have: a fault of its row alone.
    text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if not separator:
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns: list[str] = []
    while True:
        where = f"{file}:{rows.line_num + 1}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # a cell of more than 131,072 letters: mostly a quote that is never closed
            yield Row(where, file.parent, Fault("malformed row", where, f"not CSV ({error}); close its quotes"))
            return
        if not columns:
            columns = [cell.strip() for cell in cells]
        elif cells:
            yield Row(where, file.parent, _named(columns, cells, where))


def _named(columns: list[str], cells: list[str], where: str) -> dict[str, Any] | Fault:
    """The cells by the names of their columns; an empty cell is no field."""
    if len(cells) != len(columns):
        detail = f"{len(cells)} cells for the {len(columns)} columns {', '.join(columns)}"
        return Fault("malformed row", where, f"{detail:.300}; quote a cell that contains the separator")
    return {name: cell for name, cell in zip(columns, cells, strict=True) if cell != ""}


def _parquet(file: Path) -> Iterator[Row]:
    from pyarrow import parquet  # slow to import

    try:
        table = parquet.ParquetFile(file)
        classes = _class_names((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        number = 0
        for batch in table.iter_batches():
            for fields in batch.to_pylist():
                number += 1
                fields = {name: value for name, value in fields.items() if value is not None}
                label = fields.get("label")
                if isinstance(label, int) and 0 <= label < len(classes):
                    fields["label"] = classes[label]
                yield Row(f"{file}: row {number}", file.parent, fields)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these two
        raise ValueError(f"{file} cannot be read as Parquet ({error}); write it again") from error


def _class_names(metadata: bytes) -> list[str]:
    """The names of the classes that `datasets` keeps in a Parquet file's metadata for its column `label`."""
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
