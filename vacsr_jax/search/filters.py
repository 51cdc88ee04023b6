"""Filters of documents by their metadata, and their forms in the languages of the stores.

A filter is a mapping: `{"source": "web", "year": [2023, 2024]}` keeps the documents whose source is "web" and whose
year is one of the two. What it cannot say, such as a range, a store's own language can: Lance and Milvus take a text,
Qdrant a `models.Filter`, and they get it as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]  # the metadata of a document
Where = Any  # a mapping, as above, or what the store's own language has
NOTHING: dict[str, Any] = {}  # the metadata of a document that has none
OWN_FIELDS = ("id", "modality", "content", "vector")  # of every document
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
VALUES = "texts, whole numbers, or true and false"


def check_where(where: Mapping[str, Any]) -> dict[str, list[str | int | bool]]:
    """key -> the values that it may have.

    Raises:
      ValueError: if a key is not a name, or a value is none of a text, a whole number and a bool.
    """
    found = {}
    for key, wanted in where.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"where: got the key {key!r}, expected a name such as source, or a.b for b inside a")
        values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        strange = next((x for x in values if not isinstance(x, str | int)), None)
        if strange is not None or not values:
            raise ValueError(f"where: got {strange!r} for {key}, expected {VALUES}, or a list of these")
        found[key] = values
    if not found:
        raise ValueError("where: got no key; leave it out to search all documents")
    return found


def check_metadata(metadata: Sequence[Fields | None] | None, n: int) -> list[dict[str, Any]]:
    """The metadata of n documents, {} where there is none.

    Raises:
      ValueError: if there are not n, or if a key is no plain name, or one that every document has, or if a value is not
        plain.
    """
    if metadata is None:
        return [{} for _ in range(n)]
    if len(metadata) != n:
        raise ValueError(f"metadata: got {len(metadata)} for {n} embeddings; give one for each, {{}} for none")
    checked = [dict(fields or {}) for fields in metadata]
    for key, value in {(k, type(v)): (k, v) for fields in checked for k, v in fields.items()}.values():
        if not isinstance(key, str) or not key.isidentifier() or key in OWN_FIELDS:
            raise ValueError(f"metadata: got the key {key!r}, expected a name other than {', '.join(OWN_FIELDS)}")
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"metadata: got a {type(value).__name__} for {key}, expected a text, a number or a bool")
    return checked


def matcher(where: Where) -> Callable[[Fields], bool]:
    """Whether a document's metadata pass a filter.

    Raises:
      ValueError: if the filter is not a mapping, or `check_where` refuses it.
    """
    if not isinstance(where, Mapping):
        raise ValueError(f"where: got {where!r:.80}, expected a mapping such as {{'source': 'web'}}")
    wanted = {key: {(type(x), x) for x in values} for key, values in check_where(where).items()}  # 1 is not True

    def passes(fields: Fields) -> bool:
        return all((type(x := fields.get(key)), x) in values for key, values in wanted.items())

    return passes


def to_sql(where: Where) -> str:
    """A filter in SQL, which Lance takes."""
    return where if isinstance(where, str) else _written(where, _sql_value, "=", "AND", "OR")


def to_milvus(where: Where) -> str:
    """A filter in the language of Milvus's boolean expressions."""
    return where if isinstance(where, str) else _written(where, _milvus_value, "==", "and", "or")


def _written(where: Where, write: Callable[[Any], str], equal: str, all_of: str, one_of: str) -> str:
    if not isinstance(where, Mapping):
        got = type(where).__name__
        raise ValueError(f"where: got {got}, expected a mapping such as {{'source': 'web'}}, or a text")
    keys = [[f"{key} {equal} {write(x)}" for x in values] for key, values in check_where(where).items()]
    return f" {all_of} ".join(f"({f' {one_of} '.join(terms)})" for terms in keys)


def _sql_value(value: str | int | bool) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()


def _milvus_value(value: str | int | bool) -> str:
    return json.dumps(value, ensure_ascii=False)
