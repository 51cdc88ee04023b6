"""Embeddings of whole sets, in batches of a few shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from vacsr_jax.data.source import Source, load_images
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.base import Item
from vacsr_jax.towers.base import TextConfig, longest_text

BATCH_SIZE = 256


def embed_images(model: ImageTextModel, params, source: Source, preprocess: Callable | None = None) -> Item:
    """The n images of a source as items, numpy; see `ImageTextModel.encode_image`."""
    chunks = list(_chunks(np.arange(len(source))))
    progress = tqdm(chunks, unit=f" x {BATCH_SIZE} images", delay=5, leave=False, disable=None)  # on a terminal
    return _embed(model, params, (load_images(source, index, preprocess) for index in progress), "encode_image")


def embed_texts(model: ImageTextModel, params, tokens: np.ndarray, *, shorten: bool = True) -> Item:
    """Texts of token ids int32 [m, l] as items, numpy.

    The tower gets rows that are as long as the longest text, or a little longer (`text_lengths`), in place of the
    whole context: pads change nothing and cost as much as words.
    """
    config = model.towers_config.text
    if shorten and len(tokens):
        longest = longest_text(tokens, config)
        tokens = tokens[:, : next(length for length in text_lengths(config) if length >= longest)]
    return _embed(model, params, _chunks(tokens), "encode_text")


def text_lengths(config: TextConfig) -> list[int]:
    """The lengths that rows of tokens are cut to: 8, 16, 32, ... and the context's."""
    shorter = (8 << i for i in range(config.context_length.bit_length()))
    return [*(length for length in shorter if length < config.context_length), config.context_length]


def _embed(model: ImageTextModel, params, batches: Iterator[np.ndarray], method: str) -> Item:
    parts = []
    for batch in batches:
        found = jax.device_get(_encode(params, _pad(batch), model, method))
        rows = slice(len(batch))
        parts.append(jax.tree.map(lambda x, rows=rows: x[rows], found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _encode(params, batch: np.ndarray, model: ImageTextModel, method: str) -> Item:
    return model.apply({"params": params}, batch, method=method)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    if len(rows) == 0:
        raise ValueError("nothing to embed: got 0 items, expected at least 1")
    return (rows[i : i + BATCH_SIZE] for i in range(0, len(rows), BATCH_SIZE))


def _pad(batch: np.ndarray) -> np.ndarray:
    """The batch with copies of its first row up to the next power of two, so that there are few compilations."""
    missing = (1 << (len(batch) - 1).bit_length()) - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
