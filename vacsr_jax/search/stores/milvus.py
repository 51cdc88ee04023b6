"""Milvus as a store: a collection of all modalities, in a file (Milvus Lite), on a server, or on a cluster."""

from __future__ import annotations

import copy
import json
import logging
import logging.config
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors
from vacsr_jax.search.filters import Fields, Where, to_milvus
from vacsr_jax.search.stores.base import Known, Line, MergingStore, check_rows, in_parts, one_line

LONGEST_ID, LONGEST_MODALITY = 4096, 256  # bytes
READ = 1000  # ids in one request
QUERIES = 64


class MilvusStore(MergingStore):
    """A collection with a row for each document: id, modality, vector, and content and metadata as dynamic fields.

    ```
    store = MilvusStore(MilvusClient("documents.db"), "documents")               # a file
    store = MilvusStore(MilvusClient("http://localhost:19530"), "documents")     # a server or a cluster
    hits = store.search(stats, queries, k=20)
    ```

    Milvus's rerankers multiply scores but add nothing, so the modalities are merged on this side: k hits of each.

    Attributes:
      client: a `pymilvus.MilvusClient`.
      collection: the name of a collection of the metric COSINE. `add` makes it if it does not exist.
      modality_key, id_key, content_key, vector: the names of its fields.
      exact: make the collection with an index (FLAT) that compares every vector, and not with Milvus's own choice.
        In a file (Milvus Lite) that choice loses documents of filtered searches, and each modality is a filter.
    """

    advice = "make the collection with exact=True"

    def __init__(
        self,
        client: Any,
        collection: str,
        *,
        modality_key: str = "modality",
        id_key: str = "id",
        content_key: str = "content",
        vector: str = "vector",
        exact: bool = False,
    ):
        pymilvus = import_pymilvus()
        self._pymilvus, self.client, self.collection, self.exact = pymilvus, client, collection, exact
        self.modality_key, self.id_key, self.content_key, self.vector = modality_key, id_key, content_key, vector
        self._where = ""
        self._counts: dict[str, int] = {}  # condition -> documents
        self._dim: int | None = None  # once the collection is checked

    @property
    def dim(self) -> int | None:
        return self._check() if self._exists() else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted."""
        found: list[str] = []
        while self._exists() and self._check():  # a row of another modality than those before, until there is none
            where = f"{self.modality_key} not in {json.dumps(found)}" if found else f'{self.modality_key} != ""'
            rows = self._query(self._and(where), [self.modality_key], 1)
            if not rows:
                break
            found.append(rows[0][self.modality_key])
        return tuple(sorted(found))

    def count(self, modality: str) -> int:
        """The number of documents of a modality, counted once until more are added: Milvus Lite reads them all."""
        if not self._exists():
            return 0
        self._check()
        where = self._only(modality)
        if where not in self._counts:
            self._counts[where] = int(self._query(where, ["count(*)"], None)[0]["count(*)"])
        return self._counts[where]

    def filtered(self, where: Where) -> MilvusStore:
        """The same documents but for those that a filter leaves out: a mapping, or an expression of Milvus."""
        view = copy.copy(self)
        view._where = self._and(to_milvus(where))
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

        A document whose id is already there is replaced.

        Raises:
          ValueError: if `checks` refuses an embedding or id, or if the collection is of another dimension or metric.
        """
        rows = check_rows(embeddings, ids, contents, metadata, self.dim)
        if not self._exists():
            self._make(rows.vectors.shape[1])
        self._counts.clear()
        for part in rows.parts():
            values = [
                {
                    **fields,
                    self.id_key: x,
                    self.modality_key: modality,
                    self.vector: vector,
                    self.content_key: content,
                }
                for vector, x, content, fields in zip(*part, strict=True)
            ]
            with self._named():
                self.client.upsert(self.collection, values)

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""
        rows = self._read(ids, [self.modality_key, self.content_key])
        return {row[self.id_key]: Known(row[self.modality_key], row.get(self.content_key)) for row in rows}

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors float32 [d] of the documents with these ids, as far as they are there."""
        return {row[self.id_key]: np.array(row[self.vector], np.float32) for row in self._read(ids, [self.vector])}

    def settle(self) -> None:
        """Writes what was added into segments, whose vectors Milvus then indexes."""
        if self._exists():
            server = logging.getLogger("grpc._server")  # Milvus Lite logs that it has no time stamps
            level = server.level
            server.setLevel(logging.CRITICAL + 1)
            try:
                with self._named():
                    self.client.flush(self.collection)
            finally:
                server.setLevel(level)

    def drop(self, collection: str | None = None) -> None:
        """Removes the collection, or another one of the same database, if it exists."""
        name = collection or self.collection
        with self._named():
            if self.client.has_collection(name):
                self.client.drop_collection(name)
        if name == self.collection:
            self._dim = None
            self._counts.clear()

    def close(self) -> None:
        """Ends the connection, and the engine of a file."""
        self.client.close()

    def _nearest(self, queries: np.ndarray, k: int, modality: str) -> list[Line]:
        """Up to k documents of a modality for each query."""
        self._check()
        found: list[Any] = []
        for start in range(0, len(queries), QUERIES):
            with self._named():
                found += self.client.search(
                    self.collection,
                    data=queries[start : start + QUERIES],
                    anns_field=self.vector,
                    filter=self._only(modality),
                    limit=int(k),
                    search_params={"metric_type": "COSINE"},
                    output_fields=[self.id_key],
                )
        return [
            ([hit["entity"][self.id_key] for hit in line], np.array([hit["distance"] for hit in line], np.float32))
            for line in found
        ]

    def _read(self, ids: Sequence[str], fields: list[str]) -> Iterator[dict[str, Any]]:
        for part in in_parts(ids, READ) if self._exists() else ():
            where = self._and(f"{self.id_key} in {json.dumps(part, ensure_ascii=False)}")
            yield from self._query(where, [self.id_key, *fields], len(part))

    def _make(self, dim: int) -> None:
        kinds = self._pymilvus.DataType
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(self.id_key, kinds.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        schema.add_field(self.modality_key, kinds.VARCHAR, max_length=LONGEST_MODALITY)
        schema.add_field(self.vector, kinds.FLOAT_VECTOR, dim=dim)
        index = self.client.prepare_index_params()
        index.add_index(self.vector, index_type="FLAT" if self.exact else "AUTOINDEX", metric_type="COSINE")
        index.add_index(self.modality_key, index_type="INVERTED")
        with self._named():  # a search sees every document that was added before it
            self.client.create_collection(
                self.collection, schema=schema, index_params=index, consistency_level="Strong"
            )

    def _exists(self) -> bool:
        with self._named():
            return self._dim is not None or self.client.has_collection(self.collection)

    def _check(self) -> int:
        """The numbers of a vector.

        Raises:
          ValueError: if the collection does not exist, lacks a field, or is not of the metric COSINE.
        """
        if self._dim is None:
            if not self._exists():
                raise ValueError(f"Milvus has no collection {self.collection!r}; add documents first")
            with self._named():
                fields = {x["name"]: x for x in self.client.describe_collection(self.collection)["fields"]}
                index = self.client.describe_index(self.collection, self.vector) if self.vector in fields else None
            lacking = [x for x in (self.id_key, self.modality_key, self.vector) if x not in fields]
            if lacking:
                raise ValueError(
                    f"collection {self.collection}: it has no field {lacking[0]!r}, only {', '.join(fields)}; name its "
                    "fields with modality_key, id_key and vector"
                )
            metric = (index or {}).get("metric_type")
            if metric != "COSINE":
                raise ValueError(
                    f"collection {self.collection}: its metric is {metric}, whose scores are no cosines; make a "
                    "collection of the metric COSINE and add the documents to it"
                )
            self._dim = int(fields[self.vector]["params"]["dim"])
            with self._named():
                self.client.load_collection(self.collection)
        return self._dim

    def _query(self, where: str, fields: list[str], limit: int | None) -> list[dict[str, Any]]:
        with self._named():
            options = {} if limit is None else {"limit": limit}
            return self.client.query(self.collection, filter=where, output_fields=fields, **options)

    def _only(self, modality: str) -> str:
        return self._and(f"{self.modality_key} == {json.dumps(modality, ensure_ascii=False)}")

    def _and(self, where: str) -> str:
        return f"({self._where}) and ({where})" if self._where else where

    def _named(self):
        return one_line(f"Milvus, collection {self.collection}", self._pymilvus.MilvusException)


def import_pymilvus() -> Any:
    """The package, without what its import does to the logs of the whole program.

    It would close all handlers, and give the root logger another handler and level.
    """
    root, configure = logging.getLogger(), logging.config.dictConfig
    level, handlers = root.level, root.handlers[:]
    logging.config.dictConfig = lambda config: None
    try:
        import pymilvus
    except ImportError as error:
        raise ImportError(f'{error.name} is not installed; pip install "vacsr_jax[milvus]"') from error
    finally:
        logging.config.dictConfig = configure
    root.setLevel(level)
    root.handlers[:] = handlers
    return pymilvus
