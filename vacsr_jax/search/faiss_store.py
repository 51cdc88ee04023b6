"""FAISS as a store: one of its indexes for each modality, exact or approximate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids, check_k


class FaissStore:
    """Documents in indexes of FAISS, which `make_index(dim)` builds; default: `IndexFlatIP`, exact, float32.

    An index there already is given by `adopt`; `indexes` has that of each modality. Raises ImportError, with the
    command, where FAISS is not installed.
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
        """How many documents of a modality there are."""
        return self.indexes[modality].ntotal if modality in self.indexes else 0

    def adopt(self, index: Any, ids: Names, modality: str) -> None:
        """Takes an index of unit vectors whose document number i is `ids[i]`.

        Raises:
          ValueError: if its metric is not the inner product, or the ids are not as many or occur twice.
        """
        if index.metric_type != self._inner_product:
            raise ValueError("FAISS index: expected the metric METRIC_INNER_PRODUCT, of unit vectors")
        if modality in self.indexes:
            raise ValueError(f"modality: there is an index of {modality!r} already; add to it")
        self._ids[modality] = check_ids(ids, index.ntotal, self._all_ids)
        self._all_ids.update(self._ids[modality])
        self.indexes[modality] = index

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        An index that is not trained yet is trained on them.
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
          ValueError: for a bad query, fewer than k documents, or an approximate index that found fewer.
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
