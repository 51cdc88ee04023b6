"""Qdrant as a store: one collection for all modalities, in memory, on a server or on a cluster."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings
from vacsr_jax.search.filters import Fields, Where
from vacsr_jax.search.standardize.ranking import Hits, affine_maps, candidates
from vacsr_jax.search.standardize.statistics import ModalityStats
from vacsr_jax.search.stores.base import DocumentStore, Known, check_found, check_rows, in_parts, one_line
from vacsr_jax.search.stores.qdrant_terms import (
    affine_sum,
    conditions,
    cosine_vectors,
    has,
    in_payload,
    nested,
    point_id,
)

READ = 1000  # ids in one request


class QdrantStore(DocumentStore):
    """A collection whose points have their document's id and modality in the payload.

    ```
    store = QdrantStore(QdrantClient(url="http://localhost:6333"), "documents")
    hits = store.search(stats, queries, k=20)   # the server standardizes, merges and sends k
    ```

    Attributes:
      client: a `qdrant_client.QdrantClient`, such as `QdrantClient(":memory:")` or one with the url of a server.
      collection: the name of a collection of cosine distance. `add` makes it if it does not exist.
      modality_key, id_key, content_key: the keys of modality, id and content in the payload; `a.b` is the key b of the
        object a.
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
        content_key: str = "content",
        vector: str = "",
        exact: bool = False,
    ):
        try:
            from qdrant_client import models
        except ImportError as error:
            raise ImportError('qdrant-client is not installed; pip install "vacsr_jax[search]"') from error
        from qdrant_client.http.exceptions import ApiException

        self._models, self._error, self.client, self.collection = models, ApiException, client, collection
        self.modality_key, self.id_key, self.content_key, self.vector = modality_key, id_key, content_key, vector
        self._params = models.SearchParams(exact=True) if exact else None
        self._searched: tuple[str | None, int] | None = None  # name and size of the vectors, once they are checked
        self._where: list[Any] = []  # conditions that documents must meet

    @property
    def dim(self) -> int | None:
        return self._check()[1] if self._exists() else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted. It needs a keyword index of the payload, which `add` makes.

        Raises:
          ValueError: if there are points but none with a modality, or the payload has no such index. A warning counts
            points without a modality, which are never found.
        """
        if not self._exists():
            return ()
        self._check()
        only = self._models.Filter(must=self._where) if self._where else None
        try:
            hits = self.client.facet(
                self.collection, key=self.modality_key, facet_filter=only, exact=True, limit=1000
            ).hits
        except Exception as error:  # of the server, or of the network
            raise ValueError(
                f"collection {self.collection}: the values of the payload {self.modality_key!r} cannot be listed "
                f"({error}); make an index: client.create_payload_index({self.collection!r}, {self.modality_key!r}, "
                "'keyword')"
            ) from error
        total = self.client.count(self.collection, count_filter=only, exact=True).count
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
        if not self._exists():
            return 0
        self._check()
        with self._named():
            return self.client.count(self.collection, count_filter=self._only(modality), exact=True).count

    def filtered(self, where: Where) -> QdrantStore:
        """The same documents but for those that a filter leaves out: a mapping, or a `models.Filter`."""
        view = copy.copy(self)
        view._where = [*self._where, *conditions(where)]
        return view

    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str,
        contents: Sequence[str | None] | None = None,
        metadata: Sequence[Fields | None] | None = None,
    ) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        A document whose id is already there is replaced, with all its named vectors, as usual in Qdrant.

        Raises:
          ValueError: if `checks` refuses an embedding or id, or if the collection is of another dimension or distance.
        """
        rows = check_rows(embeddings, ids, contents, metadata, None)
        name = self._make(rows.vectors.shape[1])
        for part in rows.parts():
            points = [
                self._models.PointStruct(
                    id=point_id(x),
                    vector=vector.tolist() if name is None else {name: vector.tolist()},
                    payload=fields | nested({self.id_key: x, self.modality_key: modality, self.content_key: content}),
                )
                for vector, x, content, fields in zip(*part, strict=True)
            ]
            with self._named():
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
        check_found(found, k, "compare all with exact=True")
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
        formula = affine_sum(self.modality_key, names, 1 / std, priors - mean / std)
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
        check_found(found, k, "compare all with exact=True")
        ids, modality = (self._payload(found, key) for key in (self.id_key, self.modality_key))
        columns = np.vectorize(names.index, otypes=[int])(modality)
        z = self._scores(found) - priors[columns]
        return Hits(ids, modality, z * std[columns] + mean[columns], z)

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""
        return {
            self._value(point, self.id_key): Known(
                self._value(point, self.modality_key), in_payload(point, self.content_key)
            )
            for point in self._read(ids, False)
        }

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The unit vectors float32 [d] of the documents with these ids, as far as they are there."""
        name = self._check()[0] if self._exists() else None
        found = {self._value(x, self.id_key): x.vector for x in self._read(ids, True if name is None else [name])}
        return {x: np.array(vector if name is None else vector[name], np.float32) for x, vector in found.items()}

    def settle(self) -> None:
        """Nothing is left to do: the server indexes in the background what `add` has written."""

    def drop(self, collection: str | None = None) -> None:
        """Removes the collection, or another one of the same database, if it exists."""
        name = collection or self.collection
        with self._named():
            if self.client.collection_exists(name):
                self.client.delete_collection(name)
        if name == self.collection:
            self._searched = None

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()

    def _read(self, ids: Sequence[str], with_vectors: bool | list[str]) -> Iterator[Any]:
        for part in in_parts(ids, READ) if self._exists() else ():
            with self._named():
                yield from self.client.scroll(
                    self.collection,
                    scroll_filter=self._models.Filter(must=[*self._where, self._has_id(part)]),
                    limit=len(part),
                    with_payload=[self.id_key, self.modality_key, self.content_key],
                    with_vectors=with_vectors,
                )[0]

    def _only(self, modality: str) -> Any:
        return self._models.Filter(must=[has(self.modality_key, modality), *self._where])

    def _has_id(self, ids: Sequence[str]) -> Any:
        """A condition for documents that `add` wrote, whose points are found by number, and for any others."""
        m = self._models
        named = m.FieldCondition(key=self.id_key, match=m.MatchAny(any=list(ids)))
        return m.Filter(should=[m.HasIdCondition(has_id=[point_id(x) for x in ids]), named])

    def _ask(self, requests: Iterable[Any]) -> list[Any]:
        """The points that each request finds, in one round trip."""
        with self._named():
            answers = self.client.query_batch_points(self.collection, requests=list(requests))
        return [answer.points for answer in answers]

    def _checked(self, queries: Vectors) -> list[list[float]]:
        return check_embeddings(queries, self._check()[1], "queries").tolist()

    def _payload(self, found: list[Any], key: str) -> np.ndarray:
        """The value of a key in the payload of every point, [q, k]."""
        return np.array([[self._value(point, key) for point in points] for points in found], object)

    def _value(self, point: Any, key: str) -> Any:
        value = in_payload(point, key)
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
            if not self._exists():
                raise ValueError(f"Qdrant has no collection {self.collection!r}; add documents first")
            with self._named():
                params = self.client.get_collection(self.collection).config.params
            self._searched = cosine_vectors(params, f"collection {self.collection}", self.vector)
        return self._searched

    def _make(self, dim: int) -> str | None:
        """Makes the collection if it does not exist, with an index on the modality, which filters use.

        Returns the name of its vectors.
        """
        m = self._models
        if not self._exists():
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

    def _exists(self) -> bool:
        with self._named():
            return self.client.collection_exists(self.collection)

    def _named(self):
        return one_line(f"Qdrant, collection {self.collection}", self._error)
