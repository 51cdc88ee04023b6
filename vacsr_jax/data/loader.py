"""Training batches as a pure function of (seed, step). To resume, a run needs only the number of its step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import grain
import numpy as np
from absl import flags

from vacsr_jax.data.augment import Augmentation
from vacsr_jax.data.source import Source, TextInputs, labels_of, load_images, picture

Batch = dict[str, np.ndarray]


class Batches(Iterator[Batch], Protocol):
    """Batches without end, until it is closed."""

    def close(self) -> None: ...


# Grain needs a length; no run takes this many steps.
_MAX_STEPS = 2**40
_AUGMENT = 0xA06  # keeps the augmentation's random numbers apart from those of the order


@dataclass(frozen=True)
class Pairs:
    """The training items of a source of captions: one (image, caption) pair per caption.

    Attributes:
      source: the `n` images.
      tokens: int32 [p, l], every caption, tokenized in advance; or the vectors of all texts, float [p, d].
      image_index: int [p], the image of each pair. Pairs with the same image are positives of each other.
      preprocess: uint8 [h, w, 3] -> uint8 [s, s, 3]; None if the images already have the model's size.
      augmentation: random changes, drawn for each row of each step; None: no change.
      also: int32 [p, k], images that the caption of each pair is known to be true of (`data.corrections`), -1 where
        there are fewer than k; None: only its own.

    Raises:
      ValueError: if a shape or dtype differs, there is no pair, or an image index is out of range.
    """

    source: Source
    tokens: TextInputs
    image_index: np.ndarray
    preprocess: Callable[[np.ndarray], np.ndarray] | None = None
    augmentation: Augmentation | None = None
    also: np.ndarray | None = None

    def __post_init__(self):
        fits = self.tokens.dtype in (np.int32, np.float32) and len(self.tokens.shape) == 2
        if not fits or len(self.tokens) == 0:
            got = f"{self.tokens.dtype} {list(self.tokens.shape)}"
            raise ValueError(f"tokens: got {got}, expected int32 [pairs, length] with at least one pair")
        if self.image_index.shape != (len(self.tokens),) or self.image_index.dtype.kind not in "iu":
            got = f"{self.image_index.dtype} {list(self.image_index.shape)}"
            raise ValueError(f"image_index: got {got}, expected int [{len(self.tokens)}], one image per caption")
        low, high = self.image_index.min(), self.image_index.max()
        if low < 0 or high >= len(self.source):
            raise ValueError(f"image_index: got {low}..{high}, the source has images 0..{len(self.source) - 1}")

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: np.ndarray, generators: Sequence[np.random.Generator] = ()) -> Batch:
        """Returns pairs `index` (int [b]): `images` uint8 [b s s 3], `tokens` int32 [b l], `group`, `index`, `also`.

        `also` is left out where there is none. Of embeddings, `images` and `tokens` are float32 [b d].

        `generators` holds one generator per pair, for the augmentation.
        """
        group, tokens, augment = self.image_index[index], self.tokens[index], self.augmentation
        images = _load(self.source, group, self.preprocess, augment, generators)
        if augment is not None and augment.token_rate:
            tokens = np.stack([augment.tokens(row, rng) for row, rng in zip(tokens, generators, strict=True)])
        batch = {
            "images": images,
            "tokens": tokens,
            "group": group.astype(np.int32),
            "index": index.astype(np.int64),
        }
        return batch if self.also is None else {**batch, "also": self.also[index]}


@dataclass(frozen=True)
class LabelledImages:
    """The training items of a source of classes: one image each.

    Attributes:
      source: the `n` images with their labels.
      preprocess, augmentation: as in `Pairs`.
    """

    source: Source
    preprocess: Callable[[np.ndarray], np.ndarray] | None = None
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def image_index(self) -> np.ndarray:
        return np.arange(len(self.source))

    def take(self, index: np.ndarray, generators: Sequence[np.random.Generator] = ()) -> Batch:
        """Returns images `index` (int [b]): `images` uint8 [b s s 3], `label` int32 [b], `index`."""
        return {
            "images": _load(self.source, index, self.preprocess, self.augmentation, generators),
            "label": labels_of(self.source)[index].astype(np.int32),
            "index": index.astype(np.int64),
        }


TrainingItems = Pairs | LabelledImages


def _load(source: Source, index: np.ndarray, preprocess, augment: Augmentation | None, generators) -> np.ndarray:
    if augment is None or augment.images == "none":
        return load_images(source, index, preprocess)
    rows = zip(index, generators, strict=True)
    return np.stack([augment.image(picture(source, int(i)), rng) for i, rng in rows])


def batch_at(items: TrainingItems, step: int, *, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)) -> Batch:
    """Returns this process's rows of one step's global batch; `batch_size` is that of the global batch.

    The arrays are those of the items' `take`. Each epoch is a new permutation of all items. Nothing is dropped or
    padded: a batch may span two epochs, so `batch_size` may exceed the number of items (an item then appears twice in
    a batch, in the same group). The shards' batches, joined in process order, equal the batch of `shard=(0, 1)`.

    Raises:
      ValueError: if the processes cannot share the batch equally, or a number is negative.
    """
    index = _item_indices(len(items), step, batch_size, seed, shard)
    if items.augmentation is None:
        return items.take(index)
    first = step * batch_size + shard[0] * len(index)
    return items.take(index, [np.random.default_rng([seed, _AUGMENT, first + i]) for i in range(len(index))])


def batches(
    items: TrainingItems,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    threads: int = 2,
) -> Batches:
    """Yields `batch_at(start_step)`, `batch_at(start_step + 1)`, ... without end, prepared before they are needed.

    `threads` read ahead in this process (0: no reading ahead), or in each of `workers` processes if there are any.
    Neither changes a batch. Workers import the main script, so keep its code under `if __name__ == "__main__":`.

    Raises:
      ValueError: as in `batch_at`.
    """
    # A wrong number should fail here, not later in a thread.
    _item_indices(len(items), start_step, batch_size, seed, shard)
    make = functools.partial(_batch_of_step, items, batch_size=batch_size, seed=seed, shard=shard)
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = grain.MapDataset.range(start_step, _MAX_STEPS).map(make).to_iter_dataset(ahead)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's worker pool reads absl flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def _batch_of_step(items: TrainingItems, step: int, **where) -> Batch:
    return batch_at(items, int(step), **where)


def _item_indices(n: int, step: int, batch_size: int, seed: int, shard: tuple[int, int]) -> np.ndarray:
    # Grain's own shuffle and batch cost about 10 us per element (0.7 ms for 64 pairs, 10 ms for 1024, on every
    # host for the global batch). A permutation per epoch costs one gather and 8 bytes per pair.
    process, count = shard
    if not 0 <= process < count:
        raise ValueError(f"shard {shard}: expected (process index, process count)")
    if batch_size <= 0 or batch_size % count:
        raise ValueError(f"batch_size {batch_size}: expected a positive multiple of the {count} processes")
    if step < 0 or seed < 0:
        raise ValueError(f"step {step}, seed {seed}: expected non-negative numbers")
    local = batch_size // count
    epoch, place = np.divmod(step * batch_size + process * local + np.arange(local, dtype=np.int64), n)
    epochs = range(epoch[0], epoch[-1] + 1)
    return np.concatenate([_epoch_order(n, seed, e)[place[epoch == e]] for e in epochs])


@functools.lru_cache(maxsize=4)
def _epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)  # the cached array is shared
    return order
