"""The protocol that every data set follows: random access to images, each with texts, a class, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image

from vacsr_jax.data.vectors import Vectors

TextInputs = np.ndarray | Vectors


class Source(Protocol):
    """Images by index. All but the pixels is known without opening an image.

    Attributes:
      ids: one stable, unique name per image, printed in errors, tables and result files.
      captions: `captions[i]` are the texts of image `i`; empty for a source that only has classes.
      labels: `labels[i]` is the index in `class_names` of image `i`'s class; None without classes.
      class_names: the names of the classes, in label order. A template turns a name into a text.

    A source may also have `relevance()` (float [n, m], the true graded relevance), `caption_ids` (the data set's own id
    of each caption, nested like `captions`), `protocol` (a dict of facts about the data that results must state), and
    `picture(index)`: the pixels of an image as a PIL image of mode RGB. Where images are files, cropping and resizing
    that one saves two copies; see `picture` below. A source in memory may have `gather(index)`, all of a batch's images
    at once.

    In a source of embeddings an image is a vector. It has `text_inputs()`, the vectors of its texts, and
    `shown(index)`, what stands for an image on a page.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[Sequence[str]]: ...
    @property
    def labels(self) -> np.ndarray | None: ...
    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 [height, width, 3], RGB."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """A `Source` of arrays in memory.

    Raises:
      ValueError: if the lengths differ, an id repeats, or the images are not uint8 [n, h, w, 3].
    """

    images: np.ndarray
    captions: Sequence[Sequence[str]]
    ids: Sequence[str]
    labels: np.ndarray | None = None
    class_names: Sequence[str] = ()

    def __post_init__(self):
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            got = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images: got {got}, expected uint8 [n, height, width, 3]")
        lengths = {"captions": len(self.captions), "ids": len(self.ids)}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        for name, length in lengths.items():
            if length != n:
                raise ValueError(f"{name}: got {length} entries for {n} images; give one per image")
        if len(set(self.ids)) != n:
            raise ValueError("ids: an id repeats; ids must be unique")

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self.images[index]


def below(folder: str, name: str) -> Path:
    """Returns the relative path of an image that a file of the data set lists; refuses one that leaves the folder.

    Symbolic links on disk are followed. Large data sets are often laid out with links, and a list cannot create one.

    Raises:
      ValueError: for a path that is absolute, contains `..`, or contains a NUL.
    """
    path = PurePosixPath(folder, name)
    if path.is_absolute() or ".." in path.parts or "\0" in str(path) or not path.name:
        raise ValueError(f"image {str(path)!r} leaves the data set's folder; copy the image into it")
    return Path(path)


def picture(source: Source, index: int) -> Image.Image | np.ndarray:
    """Returns image `index` in the form that the source has it in: a PIL image, or uint8 [h, w, 3]."""
    return getattr(source, "picture", source.image)(index)


def caption_pairs(source: Source) -> tuple[list[str], np.ndarray]:
    """Returns all captions of a source in order, and the index of each caption's image: p strings, int64 [p]."""
    texts = [text for captions in source.captions for text in captions]
    counts = [len(captions) for captions in source.captions]
    return texts, np.repeat(np.arange(len(counts)), counts)


def text_inputs(source: Source, tokenize: Callable[[list[str]], np.ndarray] | None) -> tuple[TextInputs, np.ndarray]:
    """What the text tower takes for each text, and the index of its image, int64 [m].

    Token ids int32 [m, l]; of a source of embeddings, the vectors of its texts, for which `tokenize` is None.
    """
    if hasattr(source, "text_inputs"):
        return source.text_inputs()
    texts, image_index = caption_pairs(source)
    assert tokenize is not None  # a model with a text tower has a tokenizer
    return tokenize(texts), image_index


def labels_of(source: Source) -> np.ndarray:
    """The labels of a source of classes, int [n].

    Raises:
      ValueError: if it has none.
    """
    if source.labels is None:
        raise ValueError("the images have no labels, only captions; expected a source of classes")
    return source.labels


def load_images(
    source: Source, index: np.ndarray, preprocess: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Returns images `index` (int [b]) of a source, preprocessed: uint8 [b, s, s, 3]; of embeddings float32 [b, d].

    Raises:
      ValueError: if an image is not uint8, or differs in shape from the first one.
    """
    if preprocess is None and hasattr(source, "gather"):
        return source.gather(index)  # reading one by one would be the largest cost of a step on the host
    images = [source.image(int(i)) for i in index]
    if preprocess is not None:
        images = [preprocess(image) for image in images]
    return stack_images(source, index, images)


def stack_images(source: Source, index: Sequence[int] | np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
    """The images `index` of a source as one array, uint8 [b, h, w, 3]; uint8 [0] for none.

    Raises:
      ValueError: if an image is not uint8, or differs in shape from the first one.
    """
    if not images:
        return np.zeros(0, np.uint8)
    for i, image in zip(index, images, strict=True):
        if image.dtype != np.uint8 or image.shape != images[0].shape:
            raise ValueError(
                f"image {source.ids[int(i)]!r}: got {image.dtype} {list(image.shape)}, expected uint8 "
                f"{list(images[0].shape)} like the first of its batch; pass a preprocess that makes sizes equal"
            )
    return np.stack(images)


def to_array_source(source: Source, preprocess: Callable[[np.ndarray], np.ndarray]) -> ArraySource:
    """Returns the source with every image preprocessed once and kept in memory: n * s * s * 3 bytes.

    Raises:
      ValueError: if an image cannot be read, or preprocessing yields more than one size.
    """
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock while it decodes and resizes
        images = np.stack(list(pool.map(lambda i: preprocess(source.image(i)), range(len(source)))))
    return ArraySource(images, source.captions, source.ids, source.labels, source.class_names)


@dataclass(frozen=True)
class _Concatenated:
    parts: Sequence[Source]
    starts: np.ndarray
    captions: Sequence[Sequence[str]]
    ids: Sequence[str]
    labels: np.ndarray | None
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return np.asarray(self.picture(index))

    def picture(self, index: int) -> Image.Image | np.ndarray:
        index = range(len(self))[index]  # negative and too large indices behave as in a list
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return picture(self.parts[part], index - int(self.starts[part]))


def concatenate(sources: Mapping[str, Source]) -> Source:
    """Joins sources into one. The id `x` of the source named `noto` becomes `noto/x`.

    Class names are joined in order of first appearance and labels are renumbered. If a source has no labels, neither
    has the result.

    Raises:
      ValueError: if there is no source, or all sources are empty.
    """
    parts = list(sources.values())
    if sum(len(part) for part in parts) == 0:
        raise ValueError(f"concatenate: got {list(sources)}, expected at least one source with images")
    labelled = all(part.labels is not None for part in parts)
    class_names = list(dict.fromkeys(name for part in parts for name in part.class_names)) if labelled else []
    number = {name: i for i, name in enumerate(class_names)}
    return _Concatenated(
        parts=parts,
        starts=np.cumsum([0] + [len(part) for part in parts[:-1]]),
        captions=[captions for part in parts for captions in part.captions],
        ids=[f"{name}/{i}" for name, part in sources.items() for i in part.ids],
        labels=np.array([number[p.class_names[k]] for p in parts for k in labels_of(p)]) if labelled else None,
        class_names=class_names,
    )
