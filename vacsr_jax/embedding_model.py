"""A trained model on embeddings: what `vacsr_jax.load` returns for a run of `configs/embeddings.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.data.vectors import as_floats, check_rows, join
from vacsr_jax.pair.base import Item, Items
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.scoring.embed import embed_vectors
from vacsr_jax.towers.embeddings import EmbeddingSide

SIDES = {"image": "vision", "text": "text"}


class Prepared(Items):
    """Items of a model on embeddings: without this, an item could not be told from an embedding."""

    item: Any


@dataclass(frozen=True)
class EmbeddingModel(Pretrained):
    """A `Pretrained` whose images and texts are embeddings, float [n, d], of the models that it was trained on.

    `encode_images` and `encode_texts` turn them into items, ready to be scored. `score`, `top_k` and
    `sample_similarity` take embeddings or items. An embedding's length does not matter. There is no tokenizer.
    """

    tokenizer: None  # type: ignore[assignment]

    def encode_images(self, images: Any, *, draft: bool = False) -> Item:
        """The n image embeddings [n, d] as items.

        Raises:
          ValueError: for anything else; the message says which embeddings it wants.
        """
        return self._encode("image", images)

    def encode_texts(self, texts: Any) -> Item:
        """The m text embeddings [m, d] as items; see `encode_images`."""
        return self._encode("text", texts)

    def encode_image_parts(
        self,
        images: Sequence[Any],
        part_size: int,
        *,
        draft: bool = False,
        skipped: dict[int, str] | None = None,
    ) -> Iterator[Item | None]:
        """The items of `part_size` embeddings at a time."""
        return (self.encode_images(images[i : i + part_size]) for i in range(0, len(images), part_size))

    def preprocess(self, image: Any) -> np.ndarray:
        """Raises ValueError: embeddings need no preprocessing."""
        raise ValueError(self.wants("image"))

    def warm(self, batch_sizes: Sequence[int] = (1,)) -> None:
        for size in batch_sizes:
            images, texts = self.model.towers_config.example_inputs(size)
            self.score(images, texts)

    def cosine_vectors(self, items: Item) -> np.ndarray:
        return super().cosine_vectors(unwrapped(items))

    def wants(self, kind: str) -> str:
        """One sentence: which embeddings this model takes as images (or texts)."""
        side = getattr(self.model.towers_config, SIDES[kind])
        return f"expected {kind} embeddings, float [n, {side.dim}]{of_model(side)}; this model has no towers"

    def _save_tokenizer(self, folder: Path) -> None:
        pass

    def _encode(self, kind: str, x: Any) -> Prepared:
        side = getattr(self.model.towers_config, SIDES[kind])
        if not hasattr(x, "__array__") or isinstance(x, str):
            raise ValueError(f"got {type(x).__name__}, {self.wants(kind)}")
        x = np.asarray(x)
        try:
            vectors = join([as_floats(x)])
        except ValueError:
            vectors = None
        if vectors is None or vectors.shape[1] != side.dim:
            raise ValueError(f"got {x.dtype} {list(x.shape)}, {self.wants(kind)}")
        check_rows(vectors, f"{kind} embeddings")
        method = "encode_image" if kind == "image" else "encode_text"
        return Prepared(embed_vectors(self.model, self.params, vectors, method))

    def _encoded(self, images: Any, texts: Any) -> tuple[Item, Item]:
        images = images if isinstance(images, Prepared) else self.encode_images(images)
        texts = texts if isinstance(texts, Prepared) else self.encode_texts(texts)
        return unwrapped(images), unwrapped(texts)


def unwrapped(items: Item) -> Item:
    return items.item if isinstance(items, Prepared) else items


def of_model(side: EmbeddingSide) -> str:
    return f" of model {side.model_id}" if side.model_id else ""
