"""A split of a benchmark as a `Source`: its table, with the protocol applied, and a store of encoded images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vacsr_jax.data.classification.benchmarks import Benchmark, find_benchmark
from vacsr_jax.data.classification.protocol import restrict, shots_of_subset, split_labels
from vacsr_jax.data.classification.stores import Store, decode, open_store
from vacsr_jax.data.classification.tables import Item, Table, read_table

# Splits of the full test list -> their label space.
TESTS = {"test_all": "all", "test_base": "base", "test_new": "new"}


@dataclass(frozen=True)
class ClassSource:
    """A `Source` of images with one class each and no captions.

    Attributes beyond the protocol's:
      items: rows of the table, with labels renumbered within the label space.
      benchmark: the record of the data set.
      store: where the encoded images come from.
    """

    items: Sequence[Item]
    class_names: Sequence[str]
    benchmark: Benchmark
    store: Store

    @functools.cached_property
    def ids(self) -> list[str]:
        return [item.path for item in self.items]

    @functools.cached_property
    def captions(self) -> list[tuple[str, ...]]:
        return [()] * len(self.items)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return np.array([item.label for item in self.items], np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def image(self, index: int) -> np.ndarray:
        """Pixels of an image: uint8 [h, w, 3].

        Raises:
          ValueError: if the image cannot be read; the message names it.
        """
        return np.asarray(self.picture(index))

    def picture(self, index: int) -> Image.Image:
        """An image as a PIL image; see `image`."""
        path = self.items[index].path
        try:
            return decode(self.store.read(path), plain_rgb=self.benchmark.plain_rgb)
        except Exception as error:  # Pillow raises half a dozen types of exception for broken files
            raise ValueError(f"{self.benchmark.name}: {path} cannot be read ({error}); replace it") from error


@functools.lru_cache(maxsize=8)
def load_benchmark(name: str, root: str, tfds_dir: str = "") -> tuple[Benchmark, Table, Store]:
    """Loads the record, table and store of a data set. Recent ones are cached, since listing ImageNet is slow.

    Raises:
      ValueError: if the name is unknown or its files are missing or malformed.
    """
    benchmark = find_benchmark(name, root)
    store = open_store(benchmark, root, tfds_dir)
    return benchmark, read_table(benchmark, root, store.paths), store


def has_split(name: str, root: str, split: str, tfds_dir: str = "") -> bool:
    """Tells whether a data set has images of a split: train, val or test."""
    return bool(load_benchmark(name, str(root), tfds_dir)[1].splits.get(split))


def open_classes(
    name: str, root: str, split: str, *, subset: str = "all", shots: int = 0, seed: int = 1, tfds_dir: str = ""
) -> ClassSource:
    """Opens one split of a data set, in the label space of a subset of its classes.

    Args:
      name: a benchmark, or a folder of your own below `root`.
      split: train, validation or test, in the label space of `subset`; or test_all, test_base or test_new.
      subset: all, base or new.
      shots: number of training images drawn per class, and min(shots, 4) for validation; 0: all.
      tfds_dir: TFDS's data_dir, to read images from there instead of from the folder.

    Raises:
      ValueError: if the data set lacks the split, or an image of it is missing.
    """
    benchmark, table, store = load_benchmark(name, str(root), tfds_dir)
    kept = split_labels(range(len(table.class_names)), TESTS.get(split, subset))
    wanted = {"validation": "val"}.get(split, "test" if split in TESTS else split)
    if not table.splits.get(wanted):
        have = ", ".join({"val": "validation"}.get(name, name) for name, items in table.splits.items() if items)
        raise ValueError(f"{name}: no images of split {split!r}; the splits are {have}")
    items = restrict(table.splits[wanted], kept)
    if shots and wanted in ("train", "val"):
        items = shots_of_subset(table, shots=shots, seed=seed, subset=subset)[wanted == "val"]
    missing = [item.path for item in items if not store.has(item.path)]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of {len(items)} images of {split} are missing below {store.folder}, "
            f"such as {missing[0]}; see: vacsr data check {name} --root={root}"
        )
    return ClassSource(items, [table.class_names[label] for label in kept], benchmark, store)
