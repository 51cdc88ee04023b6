"""Embeddings of whole sets, in batches of a few shapes."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from vacsr_jax.data.read_ahead import image_batches
from vacsr_jax.data.source import Source, TextInputs
from vacsr_jax.data.vectors import Vectors
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.base import Item
from vacsr_jax.towers.base import TextConfig, longest_text

BATCH_SIZE = 256
UNITS = {"encode_image": " images", "encode_text": " texts"}


def embed_images(model: ImageTextModel, params, source: Source, preprocess: Callable | None = None) -> Item:
    """The n images of a source as items, numpy; see `ImageTextModel.encode_image`."""
    [items] = embed_image_parts(model, params, source, preprocess, part_size=len(source))
    return items


def embed_image_parts(
    model: ImageTextModel,
    params,
    source: Source,
    preprocess: Callable | None = None,
    *,
    part_size: int,
    skipped: dict[int, str] | None = None,
) -> Iterator[Item | None]:
    """The images of a source as items, `part_size` images at a time, so that memory does not grow with their number.

    Threads decode the next two batches while the device computes one, also where a part ends. A part does not depend
    on those before it: the same images give the same bits.

    Args:
      skipped: takes the images that cannot be read; see `image_batches`. None stands for a part without any other.
    """
    batches = [list(_ranges(rows, BATCH_SIZE)) for rows in _ranges(range(len(source)), part_size)]
    pixels = image_batches(source, itertools.chain(*batches), preprocess, ahead=2 * BATCH_SIZE, skipped=skipped)
    found = _embed(model, params, pixels, "encode_image", len(source))
    return (_join(list(itertools.islice(found, len(part)))) for part in batches)


def embed_texts(model: ImageTextModel, params, tokens: TextInputs, *, shorten: bool = True) -> Item:
    """Texts of token ids int32 [m, l], or of embeddings float32 [m, d], as items, numpy.

    The tower gets rows that are as long as the longest text, or a little longer (`text_lengths`), in place of the
    whole context: pads change nothing and cost as much as words.
    """
    if isinstance(tokens, Vectors):
        return embed_vectors(model, params, tokens, "encode_text")
    config = model.towers_config.text
    if shorten and len(tokens):
        longest = longest_text(tokens, config)
        tokens = tokens[:, : next(length for length in text_lengths(config) if length >= longest)]
    batches = (tokens[rows.start : rows.stop] for rows in _ranges(range(len(tokens)), BATCH_SIZE))
    return _join(list(_embed(model, params, batches, "encode_text", len(tokens))))


def text_lengths(config: TextConfig) -> list[int]:
    """The lengths that rows of tokens are cut to: 8, 16, 32, ... and the context's; only that one with pool "last"."""
    if config.pool == "last":
        return [config.context_length]
    shorter = (8 << i for i in range(config.context_length.bit_length()))
    return [*(length for length in shorter if length < config.context_length), config.context_length]


def embed_vectors(model: ImageTextModel, params, vectors: Vectors, method: str) -> Item:
    """Embeddings [n, d] as items of a model that takes them, numpy; `method` is encode_image or encode_text."""
    batches = (vectors[rows.start : rows.stop] for rows in _ranges(range(len(vectors)), BATCH_SIZE))
    return _join(list(_embed(model, params, batches, method, len(vectors))))


def _embed(model: ImageTextModel, params, batches: Iterable[np.ndarray], method: str, total: int) -> Iterator[Item]:
    """The items of each batch; None for an empty one. The device computes a batch while the next is put together."""
    if total > BATCH_SIZE:
        params = jax.device_put(params)  # once, not with every batch
    running: deque[tuple[Item | None, int]] = deque()
    with tqdm(total=total, unit=UNITS[method], delay=5, leave=False, disable=None) as progress:  # on a terminal
        for batch in _until_fault(batches):
            if isinstance(batch, ValueError):
                yield from (_take(*found) for found in running)  # what was read before is not lost
                raise batch
            running.append((_encode(params, _pad(batch), model, method) if len(batch) else None, len(batch)))
            if len(running) > 1:
                yield _take(*running.popleft())
            progress.update(len(batch))
        for found in running:
            yield _take(*found)


def _until_fault(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray | ValueError]:
    try:
        yield from batches
    except ValueError as error:
        yield error


def _take(found: Item | None, length: int) -> Item | None:
    return jax.tree.map(lambda x: x[:length], jax.device_get(found))


def _join(parts: list[Item | None]) -> Item | None:
    parts = [part for part in parts if part is not None]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts) if parts else None


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _encode(params, batch: np.ndarray, model: ImageTextModel, method: str) -> Item:
    return model.apply({"params": params}, batch, method=method)


def _ranges(rows: range, size: int) -> Iterator[range]:
    if len(rows) == 0:
        raise ValueError("nothing to embed: got 0 items, expected at least 1")
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _pad(batch: np.ndarray) -> np.ndarray:
    """The batch with copies of its first row up to the next power of two, so that there are few compilations."""
    missing = (1 << (len(batch) - 1).bit_length()) - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
