"""What `QdrantStore` says in Qdrant's terms: points, payloads, conditions, formulas, and which vectors are searched."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vacsr_jax.search.filters import Where, check_where

NAMESPACE = uuid.UUID("5b3f2c0e-6a51-4b0e-9d5d-7f3f0c1c2f6a")  # of the point ids that are made from document ids


def point_id(document: str) -> str:
    """The number of a document's point."""
    return str(uuid.uuid5(NAMESPACE, document))


def cosine_vectors(params: Any, where: str, vector: str) -> tuple[str | None, int]:
    """Name (None: they have none) and size of the vectors of a collection that are to be searched.

    Args:
      params: of the collection's configuration.
      where: names the collection in messages.
      vector: the name that was asked for, "" for none.

    Raises:
      ValueError: if there are no such vectors, or they are not of cosine distance; it says of which.
    """
    from qdrant_client.models import Distance

    name, vectors = vector or None, params.vectors
    if isinstance(vectors, dict):
        name = vector or (next(iter(vectors)) if len(vectors) == 1 else "")
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
    if vectors.distance != Distance.COSINE:
        raise ValueError(
            f"{where}: its distance is {vectors.distance.value}, whose scores are no cosines; make a collection of "
            "the distance Cosine and add the documents to it"
        )
    return name, vectors.size


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The payload in which the keys `a.b` are objects."""
    payload: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        at = payload
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return payload


def in_payload(point: Any, key: str) -> Any:
    """The value of a key, which may be nested, in a point's payload; None if it is not there."""
    value = point.payload
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def has(key: str, value: str | int | bool) -> Any:
    """The condition that a key of the payload has a value."""
    from qdrant_client import models as m

    return m.FieldCondition(key=key, match=m.MatchValue(value=value))


def conditions(where: Where) -> list[Any]:
    """The conditions of a filter: a mapping (`search.filters`) or a `models.Filter`."""
    from qdrant_client import models as m

    if isinstance(where, m.Filter):
        return [where]
    if not isinstance(where, Mapping):
        raise ValueError(
            f"where: got {type(where).__name__}, expected a mapping such as {{'source': 'web'}}, or a models.Filter"
        )
    return [m.Filter(should=[has(key, x) for x in values]) for key, values in check_where(where).items()]


def affine_sum(modality_key: str, names: Sequence[str], slopes: np.ndarray, offsets: np.ndarray) -> Any:
    """sum_m [modality = m] (slope_m score_m + offset_m), where score_m is the score of the m-th prefetch."""
    from qdrant_client import models as m

    return m.SumExpression(
        sum=[
            m.MultExpression(
                mult=[
                    has(modality_key, name),
                    m.SumExpression(sum=[m.MultExpression(mult=[float(slope), f"$score[{i}]"]), float(offset)]),
                ]
            )
            for i, (name, slope, offset) in enumerate(zip(names, slopes, offsets, strict=True))
        ]
    )
