"""Pairs of embeddings as data to train on: vectors of images and of texts, and which text belongs to which image.

The vectors may be of any models, and the two sides of different ones. `embedding_files` reads the files.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vacsr_jax.data.splits import hashed_split
from vacsr_jax.data.vectors import Vectors, check_rows

SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclasses.dataclass(frozen=True)
class EmbeddingPairs:
    """All pairs of a file.

    Attributes:
      path: the file or folder, for messages.
      images, texts: the vectors of n images and m texts.
      image_of: int64 [m], the image of each text.
      image_ids, text_ids: [n] and [m] strings, or None: an item's id is its row.
      strings: [m] the texts themselves, or None.
      split: [n] strings, or None: a hash of the id decides.
      image_model, text_model: the models that made the vectors; "" if the file does not say.
    """

    path: Path
    images: Vectors
    texts: Vectors
    image_of: np.ndarray
    image_ids: np.ndarray | None = None
    text_ids: np.ndarray | None = None
    strings: Sequence[str] | np.ndarray | None = None
    split: np.ndarray | None = None
    image_model: str = ""
    text_model: str = ""

    def check(self) -> EmbeddingPairs:
        """Returns itself; ValueError, naming the file and the first row at fault, if anything does not fit."""
        try:
            n, m = len(self.images), len(self.texts)
            self._check_names(n, m)
            for name, vectors in (("image_embeddings", self.images), ("text_embeddings", self.texts)):
                check_rows(vectors, name)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        return self

    def _check_names(self, n: int, m: int) -> None:
        if self.image_of.dtype.kind not in "iu" or self.image_of.ndim != 1:
            raise ValueError(f"image_of: got {self.image_of.dtype} {list(self.image_of.shape)}, expected integers [m]")
        lengths = (
            ("image_of", self.image_of, m),
            ("image_ids", self.image_ids, n),
            ("text_ids", self.text_ids, m),
            ("texts", self.strings, m),
            ("split", self.split, n),
        )
        for name, array, length in lengths:
            if array is not None and len(array) != length:
                kind = "image" if length == n else "text"
                raise ValueError(f"{name}: got {len(array)} entries for {length} {kind}s; give one for each")
        outside = np.flatnonzero((self.image_of < 0) | (self.image_of >= n))
        if len(outside):
            row = int(outside[0])
            raise ValueError(
                f"image_of: row {row} points to image {self.image_of[row]}, but the images are 0 to {n - 1}"
            )
        first = range(n) if self.image_ids is None else np.unique(self.image_ids, return_index=True)[1]
        if self.image_ids is not None and len(first) < n:
            row = int(np.setdiff1d(np.arange(n), first)[0])
            raise ValueError(f"image_ids: row {row} repeats {str(self.image_ids[row])!r}; ids must be unique")

    def splits(self) -> np.ndarray:
        """The split of each image: the file's, or 80/10/10 train, validation and test by a hash of the id."""
        if self.split is not None:
            found = self.split.astype(str)
            for name, known in SPLIT_NAMES.items():
                found = np.where(found == name, known, found)
            return found
        ids = map(str, range(len(self.images)) if self.image_ids is None else self.image_ids)
        return np.fromiter((hashed_split(x) for x in ids), "U10", len(self.images))

    def source(self, split: str | None) -> EmbeddingSource:
        """The images of a split that have a text, with their texts; None: all.

        Raises:
          ValueError: if there is no such split; the message lists those there are.
        """
        splits = self.splits()
        split = SPLIT_NAMES.get(split or "", split)
        mine = np.ones(len(splits), bool) if split is None else splits == split
        if not mine.any():
            known = ", ".join(sorted(set(splits.tolist())))
            raise ValueError(f"{self.path}: no image of split {split!r}; expected one of {known}")
        texts = np.flatnonzero(mine[self.image_of])
        texts = texts[np.argsort(self.image_of[texts], kind="stable")]
        rows, index = np.unique(self.image_of[texts], return_inverse=True)
        if len(rows) < mine.sum():
            warnings.warn(f"{self.path}: {mine.sum() - len(rows)} images have no text and are left out", stacklevel=2)
        if not len(rows):
            raise ValueError(f"{self.path}: no image of split {split!r} has a text; see image_of")
        return EmbeddingSource(self, rows, texts, index, split or "all")


@dataclasses.dataclass(frozen=True)
class EmbeddingSource:
    """A `Source` whose images and texts are vectors; `captions` are for people to read.

    Attributes:
      pairs: the file.
      rows: [n] the images, as rows of the file.
      text_rows: [m] the texts, as rows of the file; texts of an image stand together.
      text_image: [m] the image of each text, as an index into `rows`.
      split: its name.
    """

    pairs: EmbeddingPairs
    rows: np.ndarray
    text_rows: np.ndarray
    text_image: np.ndarray
    split: str
    labels: None = None
    class_names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> Names:
        return Names(self.pairs.image_ids, self.rows, "image")

    @property
    def captions(self) -> Captions:
        strings = self.pairs.strings if self.pairs.strings is not None else self.pairs.text_ids
        starts = np.searchsorted(self.text_image, np.arange(len(self) + 1))
        return Captions(Names(strings, self.text_rows, "text"), starts)

    @property
    def protocol(self) -> dict[str, str | int]:
        return {"dataset": self.pairs.path.name, "split": self.split}

    def image(self, index: int) -> np.ndarray:
        """The vector of an image: float32 [d]."""
        return self.gather(np.array([index]))[0]

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The vectors of images `index`: float32 [b, d]."""
        return self.pairs.images[self.rows[index]]

    def text_inputs(self) -> tuple[Vectors, np.ndarray]:
        """The vectors of all texts [m, d], and the image of each; see `data.source.text_inputs`."""
        return self.pairs.texts.take(self.text_rows), self.text_image

    def shown(self, index: int) -> str:
        """What stands for an image on a page: its id."""
        return self.ids[index]

    def first(self, n: int) -> EmbeddingSource:
        """The first n images with their texts; 0: all."""
        if not 0 < n < len(self):
            return self
        kept = self.text_image < n
        return dataclasses.replace(
            self, rows=self.rows[:n], text_rows=self.text_rows[kept], text_image=self.text_image[kept]
        )


@dataclasses.dataclass(frozen=True)
class Names(Sequence[str]):
    """Names of rows, made when they are asked for: "image 7" where the file gives none."""

    given: Sequence[str] | np.ndarray | None
    rows: np.ndarray
    kind: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.rows[index]
        return f"{self.kind} {row}" if self.given is None else str(self.given[row])


@dataclasses.dataclass(frozen=True)
class Captions(Sequence[Sequence[str]]):
    """The texts of each image: a range of all texts."""

    texts: Names
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.texts[self.starts[index] : self.starts[index + 1]]
