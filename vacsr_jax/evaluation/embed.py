"""Embeddings of whole sets, in batches of a few shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from vacsr_jax.data.source import Source, load_images
from vacsr_jax.models.image_text import ImageTextModel

BATCH_SIZE = 256


def embed_images(model: ImageTextModel, params, source: Source, preprocess: Callable | None = None) -> np.ndarray:
    """Prepared image embeddings of a source, float32 [n, d]; see `ImageTextModel.encode_image`."""
    chunks = list(_chunks(np.arange(len(source))))
    progress = tqdm(chunks, unit=f" x {BATCH_SIZE} images", delay=5, leave=False, disable=None)  # on a terminal
    return _embed(model, params, (load_images(source, index, preprocess) for index in progress), "encode_image")


def embed_texts(model: ImageTextModel, params, tokens: np.ndarray) -> np.ndarray:
    """Prepared text embeddings of token ids int32 [m, l], float32 [m, d]."""
    return _embed(model, params, _chunks(tokens), "encode_text")


def _embed(model: ImageTextModel, params, batches: Iterator[np.ndarray], method: str) -> np.ndarray:
    parts = [np.asarray(_encode(params, _pad(batch), model, method))[: len(batch)] for batch in batches]
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _encode(params, batch: np.ndarray, model: ImageTextModel, method: str) -> jax.Array:
    return model.apply({"params": params}, batch, method=method)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    if len(rows) == 0:
        raise ValueError("nothing to embed: got 0 items, expected at least 1")
    return (rows[i : i + BATCH_SIZE] for i in range(0, len(rows), BATCH_SIZE))


def _pad(batch: np.ndarray) -> np.ndarray:
    """The batch with copies of its first row up to the next power of two, so that there are few compilations."""
    missing = (1 << (len(batch) - 1).bit_length()) - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
