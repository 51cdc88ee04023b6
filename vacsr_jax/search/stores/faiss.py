"""FAISS as a store: one FAISS index for each modality, exact or approximate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids, check_k


class FaissStore:
    """Documents in FAISS indexes that `make_index(dim)` builds; by default `IndexFlatIP`, which is exact, in float32.

    `adopt` takes an index that already exists. `indexes` has the index of each modality. Raises ImportError, with the
    command that installs it, where FAISS is not installed.
    """

    def __init__(self, make_index: Callable[[int], Any] | None = None):
        try:
            import faiss
        except ImportError as error:
            raise ImportError('FAISS is not installed; pip install "vacsr_jax[search]"') from error
        self._make = make_index or faiss.IndexFlatIP
        self._inner_product = faiss.METRIC_INNER_PRODUCT
        self.indexes: dict[str, Any] = {}
        self._ids: dict[str, list[str]] = {}
        self._all_ids: set[str] = set()

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.indexes)

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        return self.indexes[modality].ntotal if modality in self.indexes else 0

    def adopt(self, index: Any, ids: Names, modality: str) -> None:
        """Takes an index of unit vectors in which document number i has the id `ids[i]`.

        Raises:
          ValueError: if its metric is not the inner product, or if ids are too few, too many or occur twice.
        """
        if index.metric_type != self._inner_product:
            raise ValueError(
                "FAISS index: expected the metric METRIC_INNER_PRODUCT; build it with that metric, of unit vectors"
            )
        if modality in self.indexes:
            raise ValueError(f"modality: there is already an index of {modality!r}; add to it")
        self._ids[modality] = check_ids(ids, index.ntotal, self._all_ids)
        self._all_ids.update(self._ids[modality])
        self.indexes[modality] = index

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        An index that is not trained is trained on them.
        """
        index = self.indexes.get(modality)
        vectors = check_embeddings(embeddings, index.d if index is not None else None, "embeddings")
        ids = check_ids(ids, len(vectors), self._all_ids)
        if index is None:
            index = self._make(vectors.shape[1])
            self.adopt(index, [], modality)
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        self._ids[modality] += ids
        self._all_ids.update(ids)

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, or if the index has, or finds, fewer than
            k documents.
        """
        check_k(k, self.count(modality), f"{modality} documents")
        index = self.indexes[modality]
        scores, numbers = index.search(check_embeddings(queries, index.d, "queries"), int(k))
        if (numbers < 0).any():
            raise ValueError(
                f"FAISS found fewer than {k} {modality} documents; raise its nprobe or efSearch, or lower k"
            )
        ids = self._ids[modality]
        return np.array([[ids[number] for number in line] for line in numbers], object), scores
