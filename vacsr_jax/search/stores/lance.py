"""LanceDB as a store: a table of all modalities in a folder, or on object storage."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors
from vacsr_jax.search.filters import Fields, Where, to_sql
from vacsr_jax.search.stores.base import Known, Line, MergingStore, check_rows, in_parts, one_line

QUERIES = 64  # in one scan
READ = 1000  # ids in one request


class LanceStore(MergingStore):
    """A table with a row for each document: id, modality, content, vector, and a column for each key of metadata.

    Each `add` is one version of the table, all of it or nothing. Without an index of vectors every document is compared
    with the query, as it lies on the disk. `store.table.create_index("vector", config=...)` makes an approximate one,
    which is then used unless `exact` is set.

    Attributes:
      database: a folder, an address such as s3://bucket/path, or what `lancedb.connect` gives.
      name: the name of the table. `add` makes it if it does not exist.
      modality_key, id_key, content_key, vector: the names of its columns.
      exact: compare every vector, even if there is an index of them.
      refine: with an index, this many times k of the documents that it proposes are compared by their whole vectors.
    """

    advice = "compare all with exact=True"

    def __init__(
        self,
        database: Any,
        name: str = "documents",
        *,
        modality_key: str = "modality",
        id_key: str = "id",
        content_key: str = "content",
        vector: str = "vector",
        exact: bool = False,
        refine: int = 10,
    ):
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise ImportError('LanceDB is not installed; pip install "vacsr_jax[lance]"') from error
        self._lancedb, self._arrow = lancedb, pyarrow
        self.name, self.exact, self.refine = name, exact, refine
        self.modality_key, self.id_key, self.content_key, self.vector = modality_key, id_key, content_key, vector
        self._where, self._made = "", False
        with self._named():
            self.database: Any = lancedb.connect(database) if isinstance(database, str | Path) else database
            self.table: Any = self.database.open_table(name) if name in self.database.list_tables().tables else None
        self._check()

    @property
    def dim(self) -> int | None:
        return self.table.schema.field(self.vector).type.list_size if self.table is not None else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents, sorted."""
        found: list[str] = []
        while self.table is not None:  # a row of another modality than those before, until there is none
            known = ", ".join(map(_quoted, found))
            other = f"{self.modality_key} NOT IN ({known})" if found else f"{self.modality_key} IS NOT NULL"
            rows = self._rows(self._and(other), [self.modality_key], 1)
            if not rows:
                break
            found.append(rows[0][self.modality_key])
        return tuple(sorted(found))

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        if self.table is None:
            return 0
        with self._named():
            return self.table.count_rows(self._only(modality))

    def filtered(self, where: Where) -> LanceStore:
        """The same documents but for those that a filter leaves out: a mapping, or a condition in SQL."""
        view = copy.copy(self)
        view._where = self._and(to_sql(where))
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
          ValueError: if `checks` refuses an embedding or id, if the table has another dimension, or if a key's values
            are of another type than those of its column.
        """
        rows = check_rows(embeddings, ids, contents, metadata, self.dim)
        pa = self._arrow
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), rows.vectors.shape[1])
        columns = {
            self.id_key: pa.array(rows.ids, pa.string()),
            self.modality_key: pa.array([modality] * len(rows.ids), pa.string()),
            self.content_key: pa.array(rows.contents, pa.string()),
            self.vector: vectors,
        }
        for key in dict.fromkeys(key for fields in rows.metadata for key in fields):
            columns[key] = self._column(key, [fields.get(key) for fields in rows.metadata])
        new = pa.table(columns)
        with self._named():
            if self.table is None:
                self.table, self._made = self.database.create_table(self.name, new), True
                return
            missing = [new.schema.field(key) for key in columns if key not in self.table.schema.names]
            if missing:
                self.table.add_columns(missing)
            for field in self.table.schema:
                if field.name not in columns:
                    new = new.append_column(field, pa.nulls(len(new), field.type))
            matching = self.table.merge_insert(self.id_key)
            matching.when_matched_update_all().when_not_matched_insert_all().execute(new)

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""
        rows = self._read(ids, [self.modality_key, self.content_key])
        return {row[self.id_key]: Known(row[self.modality_key], row[self.content_key]) for row in rows}

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors float32 [d] of the documents with these ids, as far as they are there."""
        return {row[self.id_key]: np.array(row[self.vector], np.float32) for row in self._read(ids, [self.vector])}

    def settle(self) -> None:
        """Joins the files of all that was added, and indexes ids and modalities.

        The files of a table that this store made are removed once they are joined. Those of one that was there stay for
        LanceDB's seven days, since others may be reading them.
        """
        if self.table is None:
            return
        from lancedb.index import Bitmap, BTree

        with self._named(), warnings.catch_warnings(action="ignore"):  # that nobody else may be reading
            self.table.optimize(cleanup_older_than=timedelta(0) if self._made else None)
            self.table.create_index(self.id_key, config=BTree(), replace=True)
            self.table.create_index(self.modality_key, config=Bitmap(), replace=True)

    def drop(self, collection: str | None = None) -> None:
        """Removes the table, or another one of the same database, if it exists."""
        name = collection or self.name
        with self._named():
            if name in self.database.list_tables().tables:
                self.database.drop_table(name)
        if collection in (None, self.name):
            self.table = None

    def close(self) -> None:
        """Nothing is left to do: LanceDB holds no lock and no connection."""

    def _read(self, ids: Sequence[str], columns: list[str]) -> Iterator[dict[str, Any]]:
        for part in in_parts(ids, READ) if self.table is not None else ():
            where = self._and(f"{self.id_key} IN ({', '.join(map(_quoted, part))})")
            yield from self._rows(where, [self.id_key, *columns], len(part))

    def _nearest(self, queries: np.ndarray, k: int, modality: str) -> list[Line]:
        """Up to k documents of a modality for each query."""
        if self.table is None:
            raise ValueError(f"LanceDB has no table {self.name!r}; add documents first")
        parts = (queries[i : i + QUERIES] for i in range(0, len(queries), QUERIES))
        return [line for part in parts for line in self._ask(part, k, modality)]

    def _ask(self, queries: np.ndarray, k: int, modality: str) -> Iterator[Line]:
        with self._named():
            search = self.table.search(queries, vector_column_name=self.vector).distance_type("cosine")
            search = search.where(self._only(modality)).limit(int(k)).select([self.id_key, "_distance"])
            # An index proposes documents by shortened vectors; the cosines are those of the whole ones.
            found = (search.bypass_vector_index() if self.exact else search.refine_factor(self.refine)).to_arrow()
        ids, distances = found[self.id_key].to_pylist(), found["_distance"].to_numpy()
        numbers = found["query_index"].to_numpy() if len(queries) > 1 else np.zeros(len(ids), int)
        for number in range(len(queries)):
            mine = np.flatnonzero(numbers == number)
            mine = mine[np.argsort(distances[mine], kind="stable")]
            yield [ids[i] for i in mine], np.float32(1) - distances[mine]

    def _rows(self, where: str, columns: list[str], limit: int) -> list[dict[str, Any]]:
        with self._named():
            return self.table.search().where(where).select(columns).limit(limit).to_arrow().to_pylist()

    def _only(self, modality: str) -> str:
        return self._and(f"{self.modality_key} = {_quoted(modality)}")

    def _and(self, where: str) -> str:
        return f"({self._where}) AND ({where})" if self._where else where

    def _column(self, key: str, values: list[Any]) -> Any:
        """The values of a key of metadata in the type of its column."""
        pa = self._arrow
        there = self.table is not None and key in self.table.schema.names
        try:
            column = pa.array(values, self.table.schema.field(key).type if there else None)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"metadata: the values of {key} are not of one type ({error})") from error
        return column.cast(pa.string()) if column.type == pa.null() else column

    def _check(self) -> None:
        """Raises ValueError if the table that is there lacks a column, or its vectors are of no fixed size."""
        if self.table is None:
            return
        schema = self.table.schema
        lacking = [x for x in (self.id_key, self.modality_key, self.content_key, self.vector) if x not in schema.names]
        if lacking:
            raise ValueError(
                f"table {self.name}: it has no column {lacking[0]!r}, only {', '.join(schema.names)}; name its columns "
                "with modality_key, id_key, content_key and vector"
            )
        if not self._arrow.types.is_fixed_size_list(schema.field(self.vector).type):
            raise ValueError(f"table {self.name}: {self.vector} holds {schema.field(self.vector).type}, not one vector")

    def _named(self):
        return one_line(f"LanceDB, table {self.name}", RuntimeError)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
