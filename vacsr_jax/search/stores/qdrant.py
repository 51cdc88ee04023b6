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
      modality_key, id_key: the keys of modality and id in the payload; `a.b` is the key b of the object a.
      vector: the name of the vectors to search, in a collection of named vectors; "": its only ones.
      exact: compare every vector, not only those that Qdrant's graph proposes.
    """

    def __init__(
        self,
        client: Any,
        collection: str,
        *,
        modality_key: str = "modality",
        id_key: str = "id",
        vector: str = "",
        exact: bool = False,
    ):
        try:
            from qdrant_client import models
        except ImportError as error:
            raise ImportError('qdrant-client is not installed; pip install "vacsr_jax[search]"') from error
        self._models, self.client, self.collection = models, client, collection
        self.modality_key, self.id_key, self.vector = modality_key, id_key, vector
        self._params = models.SearchParams(exact=True) if exact else None
        self._searched: tuple[str | None, int] | None = None  # name and size of the vectors, once they are checked

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted. It needs a keyword index of the payload, which `add` makes.

        Raises:
          ValueError: if there are points but none with a modality, or the payload has no such index. A warning counts
            points without a modality, which are never found.
        """
        if not self.client.collection_exists(self.collection):
            return ()
        self._check()
        try:
            hits = self.client.facet(self.collection, key=self.modality_key, exact=True, limit=1000).hits
        except Exception as error:  # of the server, or of the network
            raise ValueError(
                f"collection {self.collection}: the values of the payload {self.modality_key!r} cannot be listed "
                f"({error}); make an index: client.create_payload_index({self.collection!r}, {self.modality_key!r}, "
                "'keyword')"
            ) from error
        total = self.client.count(self.collection, exact=True).count
        without = total - sum(hit.count for hit in hits)
        if total and not hits:
            raise ValueError(f"{self._lacking(self.modality_key)}; name another modality_key, or set it on the points")
        if without > 0:
            warnings.warn(
                f"collection {self.collection}: {without} of {total} points have no payload {self.modality_key!r} and "
                "are never found",
                stacklevel=2,
            )
        return tuple(sorted(hit.value for hit in hits))

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        if not self.client.collection_exists(self.collection):
            return 0
        self._check()
        return self.client.count(self.collection, count_filter=self._only(modality), exact=True).count

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        A document whose id is already there is replaced, with all its named vectors, as usual in Qdrant.

        Raises:
          ValueError: if `checks` refuses an embedding or id, or if the collection is of another dimension or distance.
        """
        vectors = check_embeddings(embeddings, None, "embeddings")
        ids = check_ids(ids, len(vectors), ())
        name = self._make(vectors.shape[1])
        for start in range(0, len(ids), UPLOAD):
            points = [
                self._models.PointStruct(
                    id=str(uuid.uuid5(NAMESPACE, x)),
                    vector=vector.tolist() if name is None else {name: vector.tolist()},
                    payload=_nested({self.id_key: x, self.modality_key: modality}),
                )
                for x, vector in zip(ids[start : start + UPLOAD], vectors[start : start + UPLOAD], strict=True)
            ]
            self.client.upsert(self.collection, points, wait=True)

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, if fewer than k documents are found, if a
            point has no id in its payload, or if the collection does not hold vectors of cosine distance.
        """
        only, (name, _) = self._only(modality), self._check()
        found = self._ask(
            self._models.QueryRequest(
                query=query, using=name, filter=only, params=self._params, limit=int(k), with_payload=[self.id_key]
            )
            for query in self._checked(queries)
        )
        self._refuse_fewer(found, k)
        return self._payload(found, self.id_key), self._scores(found)

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
        names, (vector, _) = tuple(limits), self._check()
        mean, std, priors = affine_maps(stats, names, query_modality, prior)
        formula = self._formula(names, 1 / std, priors - mean / std)
        found = self._ask(
            self._models.QueryRequest(
                prefetch=[
                    self._models.Prefetch(
                        query=query, using=vector, filter=self._only(name), params=self._params, limit=int(n)
                    )
                    for name, n in limits.items()
                ],
                query=self._models.FormulaQuery(formula=formula),
                limit=int(k),
                with_payload=[self.id_key, self.modality_key],
            )
            for query in self._checked(queries)
        )
        self._refuse_fewer(found, k)
        ids, modality = (self._payload(found, key) for key in (self.id_key, self.modality_key))
        columns = np.vectorize(names.index, otypes=[int])(modality)
        z = self._scores(found) - priors[columns]
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
        return check_embeddings(queries, self._check()[1], "queries").tolist()

    def _refuse_fewer(self, found: list[Any], k: int) -> None:
        if any(len(points) < k for points in found):
            raise ValueError(f"k: got {k}, but Qdrant found fewer documents; lower k, or compare all with exact=True")

    def _payload(self, found: list[Any], key: str) -> np.ndarray:
        """The value of a key in the payload of every point, [q, k]."""
        return np.array([[self._value(point, key) for point in points] for points in found], object)

    def _value(self, point: Any, key: str) -> Any:
        value = point.payload
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise ValueError(f"{self._lacking(key)} (point {point.id}); name another key, or set it on the points")
        return value

    def _lacking(self, key: str) -> str:
        return f"collection {self.collection}: its points have no payload {key!r}"

    def _scores(self, found: list[Any]) -> np.ndarray:
        return np.array([[point.score for point in points] for points in found], np.float32)

    def _check(self) -> tuple[str | None, int]:
        """Name (None: they have none) and size of the collection's vectors, which must be of cosine distance.

        Raises:
          ValueError: if the collection does not exist, or its vectors are of another kind; it says of which.
        """
        if self._searched is None:
            if not self.client.collection_exists(self.collection):
                raise ValueError(f"Qdrant has no collection {self.collection!r}; add documents first")
            self._searched = self._cosine_vectors(self.client.get_collection(self.collection).config.params)
        return self._searched

    def _cosine_vectors(self, params: Any) -> tuple[str | None, int]:
        where, name, vectors = f"collection {self.collection}", self.vector or None, params.vectors
        if isinstance(vectors, dict):
            name = self.vector or (next(iter(vectors)) if len(vectors) == 1 else "")
            if name not in vectors:
                sparse = f" (and the sparse {', '.join(params.sparse_vectors)}, which hold no embeddings)"
                has = ", ".join(vectors) or "none"
                raise ValueError(
                    f"{where}: its vectors are named {has}{sparse if params.sparse_vectors else ''}; say which with "
                    f"QdrantStore(..., vector=NAME)"
                )
            vectors = vectors[name]
        elif name is not None:
            raise ValueError(f"{where}: its vectors have no names; leave vector={name!r} out")
        if vectors is None:
            raise ValueError(f"{where}: it holds no embeddings; name another collection")
        if vectors.multivector_config is not None:
            raise ValueError(f"{where}: each point has several vectors; name a collection with one for each point")
        if vectors.distance != self._models.Distance.COSINE:
            raise ValueError(
                f"{where}: its distance is {vectors.distance.value}, whose scores are no cosines; make a collection of "
                "the distance Cosine and add the documents to it"
            )
        return name, vectors.size

    def _make(self, dim: int) -> str | None:
        """Makes the collection if it does not exist, with an index on the modality, which filters use.

        Returns the name of its vectors.
        """
        m = self._models
        if not self.client.collection_exists(self.collection):
            config = m.VectorParams(size=dim, distance=m.Distance.COSINE)
            self.client.create_collection(
                self.collection, vectors_config={self.vector: config} if self.vector else config
            )
            with warnings.catch_warnings(action="ignore"):  # in memory it has no effect and warns
                self.client.create_payload_index(self.collection, self.modality_key, m.PayloadSchemaType.KEYWORD)
        name, size = self._check()
        if size != dim:
            raise ValueError(
                f"collection {self.collection}: {size} numbers, Cosine; expected {dim} and Cosine; name another "
                "collection"
            )
        return name


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The payload in which the keys `a.b` are objects."""
    payload: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        at = payload
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return payload
