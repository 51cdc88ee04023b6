"""A `Source` of images with several captions each, from any form of a caption data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from vacsr_jax.data.captions.known import KNOWN, PER_IMAGE
from vacsr_jax.data.decoding import decode_picture
from vacsr_jax.data.fields import is_text

# Our split -> Karpathy's. COCO trains on its training images and on the validation images that no other split has.
SPLITS = {"train": ("train", "restval"), "validation": ("val",), "test": ("test",)}


class Record(NamedTuple):
    """An image as its data set describes it; `split` is Karpathy's name of the split."""

    id: str
    split: str
    captions: Sequence[str]
    caption_ids: Sequence[int]
    file: Path | BinaryIO | None = None


@dataclass(frozen=True)
class CaptionSource:
    """A `Source` whose captions have ids.

    Attributes beyond the protocol's:
      caption_ids: `caption_ids[i]` are the data set's ids of `captions[i]`.
      files: the file that each image is decoded from: a path, or a new open file at each access.
      protocol: the facts about the data that results must state.
    """

    ids: Sequence[str]
    captions: Sequence[Sequence[str]]
    caption_ids: Sequence[Sequence[int]]
    files: Sequence[Path | BinaryIO]
    protocol: dict[str, str | int]
    labels: None = None
    class_names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, n: int) -> CaptionSource:
        """Returns a source of the first `n` images; 0: all."""
        n = min(n or len(self), len(self))
        protocol = self.protocol | {"images": n, "captions": sum(map(len, self.captions[:n]))}
        return dataclasses.replace(
            self, ids=self.ids[:n], captions=self.captions[:n], caption_ids=self.caption_ids[:n], protocol=protocol
        )

    def image(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 [height, width, 3]; see `decoding.decode_image`.

        Raises:
          ValueError: if the image cannot be read; the message names it.
        """
        return np.asarray(self.picture(index))

    def picture(self, index: int) -> Image.Image:
        """Image `index` as a PIL image; see `image`."""
        file = self.files[index]
        try:
            return decode_picture(file)
        except Exception as error:  # Pillow raises half a dozen types of exception for broken files
            where = file if isinstance(file, Path) else f"image {self.ids[index]}"
            raise ValueError(f"{where} cannot be read ({error}); replace it") from error


def split_names(split: str | None) -> tuple[str, ...]:
    """Returns Karpathy's names for one of our splits, or for all of them if `split` is None.

    Raises:
      ValueError: for an unknown name.
    """
    if split is None:
        return tuple(name for names in SPLITS.values() for name in names)
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    return SPLITS[split]


def first_captions(records: Sequence[Record], per_image: int) -> list[Record]:
    """Returns the records with only the first `per_image` captions, in the data set's order; 0: all captions."""
    n = per_image or None
    return [r._replace(captions=r.captions[:n], caption_ids=r.caption_ids[:n]) for r in records]


def check_records(records: Sequence[Record], names: Sequence[str], where: Path) -> None:
    """Raises ValueError for a split without images, a repeated id, or a missing or empty caption."""
    found = {r.split for r in records}
    if not found & set(names):
        raise ValueError(
            f"{where}: no image of split {' or '.join(names)}; the splits are {', '.join(sorted(found)) or 'none'}"
        )
    seen: set[object] = set()
    for r in records:
        for one in (r.id, *r.caption_ids):
            if one in seen:
                raise ValueError(f"{where}: {'image' if one == r.id else 'caption'} id {one} repeats")
            seen.add(one)
        if not r.captions or not all(is_text(c) for c in r.captions):
            raise ValueError(f"{where}: image {r.id} has no caption, or one that is empty or not a string")


def count_differences(records: Sequence[Record], names: Sequence[str], dataset: str, per_image: int) -> list[str]:
    """Lists where the numbers of images and captions differ from the published ones of a data set."""
    found = []
    for name in (n for n in names if n in KNOWN[dataset].images):
        mine = [r for r in records if r.split == name]
        images, captions = KNOWN[dataset].images[name], sum(len(r.captions) for r in mine)
        if len(mine) != images:
            found.append(f"{name}: {len(mine):,} images, but {images:,} were published")
        elif per_image == PER_IMAGE and captions != images * PER_IMAGE:
            short = next(r for r in mine if len(r.captions) != PER_IMAGE)
            found.append(
                f"{name}: {captions:,} captions, but {images * PER_IMAGE:,} were published; "
                f"image {short.id} has {len(short.captions)}"
            )
    return found


def missing_files(records: Sequence[Record]) -> list[Path]:
    """Returns the records' files that do not exist. Lists each folder once, since it may hold 100,000 files."""
    listed: dict[Path, set[str]] = {}
    for r in records:
        if isinstance(r.file, Path) and r.file.parent not in listed:
            listed[r.file.parent] = set(os.listdir(r.file.parent)) if r.file.parent.is_dir() else set()
    return [r.file for r in records if isinstance(r.file, Path) and r.file.name not in listed[r.file.parent]]
