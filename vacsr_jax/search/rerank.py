"""The second stage: a pair model looks again at what the index found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vacsr_jax.search.mixed import Hits


class Reranked(NamedTuple):
    """Hits of one query, all [k], and what the pair model says of them; NaN where it was not asked or does not say.

    Attributes:
      hits: in their new order; their `z` is still the first stage's.
      logit: what ordered those of the re-ranked modality.
      probability: of a match.
      uncertainty: mean latent standard deviation.
    """

    hits: Hits
    logit: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray


def rerank(hits: Hits, score: Callable[[list[str]], Any], modality: str) -> Reranked:
    """Orders the hits of one modality by a pair model, in the places that they hold.

    A pair model (VACSR, CLIP) scores pictures with texts, so it has nothing to say of a text found for a text. Which
    places belong to which modality stays as the first stage decided.

    Args:
      hits: of one query, [k].
      score: ids -> match_score and logit, and probability and uncertainty or None, as `vacsr_jax.load(...).score`
        gives them for the documents of these ids and the query; any shape with one number for each.
      modality: the one that differs from the query's.
    """
    places = np.flatnonzero(hits.modality == modality)
    order = np.arange(len(hits.ids))
    numbers = {name: np.full(len(order), np.nan, np.float32) for name in ("logit", "probability", "uncertainty")}
    if len(places):
        scores = score(hits.ids[places].tolist())
        best = np.argsort(-np.ravel(scores.match_score), kind="stable")
        order[places] = places[best]
        for name, column in numbers.items():
            values = getattr(scores, name)
            if values is not None:
                column[places] = np.ravel(values)[best]
    return Reranked(Hits(*(column[order] for column in hits)), **numbers)
