"""`vacsr embed --pairs`: the embeddings of a configured data set, as data for a model without towers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.embeddings import write_embeddings
from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.pair.base import Item

PART = 4096  # images that are encoded at once
SPLITS = ("train", "validation", "test")


class Encoder(Protocol):
    """The part of `vacsr_jax.pretrained.Pretrained` that is used here; this package must not import that module."""

    def encode_source_parts(self, source: Source, part_size: int) -> Iterator[Item]: ...
    def encode_texts(self, texts: list[str]) -> Item: ...
    def cosine_vectors(self, items: Item) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


def write_pairs(model: Encoder, config: ConfigDict, out: Path) -> int:
    """Writes the npz that `configs/embeddings.py:path=OUT` reads; returns the number of texts.

    Vectors are those whose cosine compares the items (`Pretrained.cosine_vectors`), in float32.

    Raises:
      ValueError: if the data are classes or embeddings, or `out` is no npz.
    """
    if out.suffix != ".npz":
        raise ValueError(f"--out: got {out}, expected a name that ends in .npz with --pairs")
    if config.data.name in ("classification", "embeddings"):
        raise ValueError(f"--pairs: data.name is {config.data.name}, expected pictures with captions")
    parts = [arrays_of(model, open_split(config, split), split) for split in SPLITS]
    starts = np.cumsum([0, *(len(part["image_ids"]) for part in parts)])
    for start, part in zip(starts, parts, strict=False):
        part["image_of"] += start
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(np.unique(arrays["image_ids"])) < len(arrays["image_ids"]):  # the splits number their images alike
        pairs = zip(arrays["split"].tolist(), arrays["image_ids"].tolist(), strict=True)
        arrays["image_ids"] = np.array([f"{split}/{identity}" for split, identity in pairs])
    write_embeddings(out, **arrays, model_id=np.array(model.fingerprint()))
    return len(arrays["image_of"])


def arrays_of(model: Encoder, source: Source, split: str) -> dict[str, Any]:
    texts, image_of = caption_pairs(source)
    images = model.encode_source_parts(source, PART)
    return {
        "image_embeddings": np.concatenate([model.cosine_vectors(items) for items in images]),
        "text_embeddings": model.cosine_vectors(model.encode_texts(texts)),
        "image_of": image_of,
        "image_ids": np.array([str(x) for x in source.ids]),
        "texts": np.array(texts),
        "split": np.full(len(source), split),
    }
