"""Embeddings as users give them to a model without towers, checked and turned into items."""

from __future__ import annotations

from typing import Any

import numpy as np

from vacsr_jax.data.vectors import as_floats, check_rows, join
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.base import Item, Items
from vacsr_jax.scoring.embed import embed_vectors
from vacsr_jax.towers.embeddings import EmbeddingSide

SIDES = {"image": "vision", "text": "text"}


class Prepared(Items):
    """Items of a model on embeddings: without this, an item could not be told from an embedding."""

    item: Any


def encode_given(model: ImageTextModel, params: Any, kind: str, x: Any) -> Prepared:
    """Embeddings of images (or of texts), float [n, d], as items.

    Raises:
      ValueError: for anything else, or a vector that is zero or not finite; the message says what is wanted.
    """
    if isinstance(x, str) or not hasattr(x, "__array__"):
        raise ValueError(f"got {type(x).__name__}, {wants(model, kind)}")
    x = np.asarray(x)
    try:
        vectors = join([as_floats(x)])
    except ValueError:
        raise ValueError(f"got {x.dtype} {list(x.shape)}, {wants(model, kind)}") from None
    if vectors.shape[1] != side_of(model, kind).dim:
        raise ValueError(f"got {x.dtype} {list(x.shape)}, {wants(model, kind)}")
    check_rows(vectors, f"{kind} embeddings")
    return Prepared(embed_vectors(model, params, vectors, "encode_image" if kind == "image" else "encode_text"))


def wants(model: ImageTextModel, kind: str) -> str:
    """One sentence: which embeddings a model takes as images (or as texts)."""
    side = side_of(model, kind)
    made_by = f" of model {side.model_id}" if side.model_id else ""
    return f"expected {kind} embeddings, float [n, {side.dim}]{made_by}; this model has no towers"


def side_of(model: ImageTextModel, kind: str) -> EmbeddingSide:
    return getattr(model.towers_config, SIDES[kind])


def unwrapped(items: Item) -> Item:
    """The items that a pair model takes."""
    return items.item if isinstance(items, Prepared) else items
