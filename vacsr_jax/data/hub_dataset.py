"""A repository of Hugging Face's `datasets`, on disk or on the hub, as a source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vacsr_jax.data.caption_table import CAPTION_KEYS
from vacsr_jax.data.fields import captions_of, label_of
from vacsr_jax.data.records import Record, RecordSource, open_records
from vacsr_jax.data.splits import NAMES


@dataclass(frozen=True, eq=False)
class Cell:
    """An encoded picture in a row of a data set."""

    rows: Any
    row: int
    column: str

    def open(self) -> BinaryIO:
        """The bytes of the picture.

        Raises:
          ValueError: if the cell is empty.
        """
        stored = self.rows[self.row][self.column]
        if stored and stored.get("bytes"):
            return io.BytesIO(stored["bytes"])
        if stored and stored.get("path"):
            return open(stored["path"], "rb")
        raise ValueError("the row has no picture")

    def __str__(self) -> str:
        return f"{self.column} of row {self.row}"


def read_hub_dataset(
    name: str,
    *,
    split: str | None = None,
    on_error: str = "raise",
    verify: bool = False,
    image_key: str = "",
    caption_key: str = "",
) -> RecordSource:
    """Reads a data set with a column of pictures, and one of captions (a text or a list) or of classes.

    Args:
      name: a folder that `save_to_disk` wrote, a folder or a hub repository that `load_dataset` reads, or
        `NAME:CONFIGURATION`. Scripts in a repository are not run.
      image_key: the column of the pictures; "": the only one.
      caption_key: the column of the captions; "": the first of the usual names. Classes are read from `label`.
      split: train, validation, test, or another split of the data set; None: all. See `splits.divide` for missing ones.
      on_error, verify: as in `read_image_folder`.

    Raises:
      ValueError: without the package `datasets`, if the data set or a column is not there, or for a bad row.
    """
    parts = load_splits(name)
    some = next(iter(parts.values()))
    image = _image_column(name, some.features, image_key)
    texts = [column for column in ([caption_key] if caption_key else CAPTION_KEYS) if column in some.features]
    classes = getattr(some.features.get("label"), "names", None)
    if not texts and classes is None:
        have = ", ".join(some.features)
        raise ValueError(f"{name}: no column of captions; name it: --config.data.caption_key=NAME, of: {have}")

    def rows() -> Iterator[tuple[str, Any, int, dict[str, Any]]]:
        for part, table in parts.items():
            pictures = _undecoded(table, image)
            kept = [column for column in table.column_names if column != image]
            if not kept:
                kept = texts
            for i, fields in enumerate(table.select_columns(kept)):
                yield part, pictures, i, fields

    def parse(item: tuple[str, Any, int, dict[str, Any]]) -> Record:
        part, pictures, i, fields = item
        where, label = f"{name}: {part}: row {i}", fields.get("label")
        fields = {column: value for column, value in fields.items() if value is not None}
        if classes is not None and isinstance(label, int) and 0 <= label < len(classes):
            fields["label"] = classes[label]
        captions = captions_of(fields, where, texts[0]) if texts else []
        return Record(
            where=where,
            file=Cell(pictures, i, image),
            id=f"{part}/{i}",
            captions=captions,
            split=NAMES.get(part, part),
            label=label_of(fields, where) if classes is not None else None,
            fields=fields,
        )

    return open_records(rows(), parse, where=name, split=split, on_error=on_error, verify=verify)


def load_splits(name: str) -> dict[str, Any]:
    """The splits of a data set by their own names."""
    try:
        import datasets
    except ImportError:
        raise ValueError('data.name=datasets needs the package datasets: pip install "vacsr_jax[datasets]"') from None
    repository, configuration = name, None
    if not Path(name).exists() and ":" in name:
        repository, _, configuration = name.partition(":")
    saved = any((Path(repository) / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(repository) if saved else datasets.load_dataset(repository, configuration)
    except Exception as error:  # no network, no access, no such name, files that do not fit: many types
        raise ValueError(f"{name!r} cannot be loaded by datasets: {error}") from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _image_column(name: str, features: Any, given: str) -> str:
    pictures = [column for column, kind in features.items() if type(kind).__name__ == "Image"]
    if (given and given not in pictures) or (not given and len(pictures) != 1):
        have = ", ".join(pictures) or "none"
        got = f"{given!r} is no column of pictures" if given else f"{len(pictures)} columns of pictures"
        raise ValueError(f"{name}: {got}; name one: --config.data.image_key=NAME, of: {have}")
    return given or pictures[0]


def _undecoded(table: Any, image: str) -> Any:
    """The column of pictures as encoded bytes, so that they are decoded as those of every other source."""
    import datasets

    return table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
