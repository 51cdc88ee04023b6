"""A query's results as `vacsr search --json` prints them and `vacsr serve` sends them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.data.picture_files import is_picture
from vacsr_jax.pretrained import Pretrained, load
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.index.rerank import Reranked, rerank_hits
from vacsr_jax.search.standardize.ranking import Hits

OTHER = {"text": "image", "image": "text"}  # a query's modality -> the modality that a pair model compares it with


def model_of(index: MixedIndex, name: str | None, instead: str = "") -> Pretrained:
    """The model that embeds queries for an index: the one named, or the one that the index names.

    Args:
      instead: ends the advice of the error: what could be given in place of the model.

    Raises:
      ValueError: if that model is not known or cannot be loaded, or is not the one that embedded the index.
    """
    name = name or index.about.get("model")
    if name is None:
        raise ValueError(f"--model: the index does not name the model that embedded it; give it{instead}")
    model = load(name)
    if index.model_id and model.fingerprint() != index.model_id:
        raise ValueError(
            f"{name} is model {model.fingerprint()}, but the index is of {index.model_id}; give that model, or build "
            "the index again with `vacsr index`"
        )
    return model


def not_reranked(hits: Hits) -> Reranked:
    return rerank_hits(hits, lambda _: None, "")


def without_z(ranked: Reranked) -> Reranked:
    """The same where the index ranks by cosine: what it gives as z is then the cosine."""
    return ranked._replace(hits=ranked.hits._replace(z=np.full_like(ranked.hits.z, np.nan)))


def json_answer(query: str | None, modality: str, ranked: Reranked, contents: Mapping[str, str]) -> dict[str, Any]:
    """A query's results as plain values, best first."""
    hits = [
        {
            "id": str(x),
            "modality": str(kind),
            "z": number(z),
            "cosine": number(score),
            "probability": number(p),
            "uncertainty": number(u),
            "content": contents.get(x),
        }
        for x, kind, score, z, p, u in zip(*ranked.hits, ranked.probability, ranked.uncertainty, strict=True)
    ]
    return {"query": query, "modality": modality, "hits": hits}


def number(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def picture_file(content: str) -> Path | None:
    """The file of a picture of an index; None if it may not be opened.

    An index may come from a stranger, and must not make us open any file it likes. Only an absolute path with a
    picture's suffix is opened, which is what `vacsr index` writes.
    """
    path = Path(content)
    return path if path.is_absolute() and is_picture(path.name) else None
