"""Qdrant as a store: one collection for all modalities, in memory, on a server or on a cluster."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.standardize.ranking import Hits, affine_maps, candidates
from vacsr_jax.search.standardize.statistics import ModalityStats

UPLOAD = 256  # documents in one request
NAMESPACE = uuid.UUID("5b3f2c0e-6a51-4b0e-9d5d-7f3f0c1c2f6a")  # of the point ids that are made from document ids


class QdrantStore:
    """A collection whose points have their document's id and modality in the payload.

    ```
    store = QdrantStore(QdrantClient(url="http://localhost:6333"), "documents")
    hits = store.search(stats, queries, k=20)   # the server standardizes, merges and sends k
    ```

    Attributes:
      client: a `qdrant_client.QdrantClient`, such as `QdrantClient(":memory:")` or one with the url of a server.
      collection: the name of a collection of cosine distance. `add` makes it if it does not exist.
      modality_key, id_key: the keys of modality and id in the payload.
      exact: compare every vector, not only those that Qdrant's graph proposes.
    """

    def __init__(
        self,
        client: Any,
        collection: str,
        *,
        modality_key: str = "modality",
        id_key: str = "id",
        exact: bool = False,
    ):
        try:
            from qdrant_client import models
        except ImportError as error:
            raise ImportError('qdrant-client is not installed; pip install "vacsr_jax[search]"') from error
        self._models, self.client, self.collection = models, client, collection
        self.modality_key, self.id_key = modality_key, id_key
        self._params = models.SearchParams(exact=True) if exact else None
        self._dim: int | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted. It needs a keyword index of the payload, which `add` makes."""
        if not self.client.collection_exists(self.collection):
            return ()
        found = self.client.facet(self.collection, key=self.modality_key, exact=True, limit=1000)
        return tuple(sorted(hit.value for hit in found.hits))

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        if not self.client.collection_exists(self.collection):
            return 0
        return self.client.count(self.collection, count_filter=self._only(modality), exact=True).count

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        A document whose id is already there is replaced, as usual in Qdrant.

        Raises:
          ValueError: if `checks` refuses an embedding or id, or if the collection is of another dimension or distance.
        """
        vectors = check_embeddings(embeddings, None, "embeddings")
        ids = check_ids(ids, len(vectors), ())
        self._make(vectors.shape[1])
        for start in range(0, len(ids), UPLOAD):
            points = [
                self._models.PointStruct(
                    id=str(uuid.uuid5(NAMESPACE, x)),
                    vector=vector.tolist(),
                    payload={self.id_key: x, self.modality_key: modality},
                )
                for x, vector in zip(ids[start : start + UPLOAD], vectors[start : start + UPLOAD], strict=True)
            ]
            self.client.upsert(self.collection, points, wait=True)

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, or if fewer than k documents are found.
        """
        only = self._only(modality)
        found = self._ask(
            self._models.QueryRequest(
                query=query, filter=only, params=self._params, limit=int(k), with_payload=[self.id_key]
            )
            for query in self._checked(queries)
        )
        payloads, scores = self._columns(found, k)
        return np.array([[payload[self.id_key] for payload in line] for line in payloads], object), scores

    def search(
        self,
        stats: ModalityStats,
        queries: Vectors,
        k: int,
        *,
        query_modality: str = "text",
        prior: Mapping[str, float | int] | None = None,
        per_modality_k: Mapping[str, int] | int | None = None,
    ) -> Hits:
        """`ranking.search` in one request: the server maps each modality's k best by a formula and merges them.

        Documents of a modality that was not fitted are not found. Formulas need a server of version 1.14 or newer. With
        an older server call `ranking.search(store, ...)`, which merges on this side.
        """
        limits = candidates(dict.fromkeys(stats.modalities, k), k, per_modality_k)
        names = tuple(limits)
        mean, std, priors = affine_maps(stats, names, query_modality, prior)
        formula = self._formula(names, 1 / std, priors - mean / std)
        found = self._ask(
            self._models.QueryRequest(
                prefetch=[
                    self._models.Prefetch(query=query, filter=self._only(name), params=self._params, limit=int(n))
                    for name, n in limits.items()
                ],
                query=self._models.FormulaQuery(formula=formula),
                limit=int(k),
                with_payload=[self.id_key, self.modality_key],
            )
            for query in self._checked(queries)
        )
        payloads, shifted = self._columns(found, k)
        ids, modality = (
            np.array([[payload[key] for payload in line] for line in payloads], object)
            for key in (self.id_key, self.modality_key)
        )
        columns = np.vectorize(names.index, otypes=[int])(modality)
        z = shifted - priors[columns]
        return Hits(ids, modality, z * std[columns] + mean[columns], z)

    def _formula(self, names: Sequence[str], slopes: np.ndarray, offsets: np.ndarray) -> Any:
        """sum_m [modality = m] (slope_m score_m + offset_m), where score_m is the score of the m-th prefetch."""
        m = self._models
        return m.SumExpression(
            sum=[
                m.MultExpression(
                    mult=[
                        self._is(name),
                        m.SumExpression(sum=[m.MultExpression(mult=[float(slope), f"$score[{i}]"]), float(offset)]),
                    ]
                )
                for i, (name, slope, offset) in enumerate(zip(names, slopes, offsets, strict=True))
            ]
        )

    def _is(self, modality: str) -> Any:
        return self._models.FieldCondition(key=self.modality_key, match=self._models.MatchValue(value=modality))

    def _only(self, modality: str) -> Any:
        return self._models.Filter(must=[self._is(modality)])

    def _ask(self, requests: Iterable[Any]) -> list[Any]:
        """The points that each request finds, in one round trip."""
        answers = self.client.query_batch_points(self.collection, requests=list(requests))
        return [answer.points for answer in answers]

    def _checked(self, queries: Vectors) -> list[list[float]]:
        if self._dim is None:
            self._dim = self._vector_config().size
        return check_embeddings(queries, self._dim, "queries").tolist()

    def _columns(self, found: list[Any], k: int) -> tuple[list[list[dict]], np.ndarray]:
        """Payloads and float32 scores of the points, [q][k]."""
        if any(len(points) < k for points in found):
            raise ValueError(f"k: got {k}, but Qdrant found fewer documents; lower k, or compare all with exact=True")
        payloads = [[point.payload for point in points] for points in found]
        return payloads, np.array([[point.score for point in points] for points in found], np.float32)

    def _vector_config(self) -> Any:
        if not self.client.collection_exists(self.collection):
            raise ValueError(f"Qdrant has no collection {self.collection!r}; add documents first")
        return self.client.get_collection(self.collection).config.params.vectors

    def _make(self, dim: int) -> None:
        """Makes the collection if it does not exist, with an index on the modality, which filters use."""
        m = self._models
        if not self.client.collection_exists(self.collection):
            config = m.VectorParams(size=dim, distance=m.Distance.COSINE)
            self.client.create_collection(self.collection, vectors_config=config)
            with warnings.catch_warnings(action="ignore"):  # in memory it has no effect and warns
                self.client.create_payload_index(self.collection, self.modality_key, m.PayloadSchemaType.KEYWORD)
        config = self._vector_config()
        if (config.size, config.distance) != (dim, m.Distance.COSINE):
            raise ValueError(
                f"collection {self.collection}: {config.size} numbers, {config.distance}; expected {dim} and "
                "Cosine; name another collection"
            )
