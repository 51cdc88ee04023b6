"""The second stage: a pair model reorders what the index found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vacsr_jax.search.standardize.ranking import Hits


class Reranked(NamedTuple):
    """The hits of one query with the pair model's numbers, all [k]; NaN for a hit or a number that it does not score.

    Attributes:
      hits: in their new order, with the `z` of the first stage.
      logit: of the pair.
      probability: of a match.
      uncertainty: mean latent standard deviation.
    """

    hits: Hits
    logit: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray


def rerank_hits(hits: Hits, score: Callable[[list[str]], Any], modality: str) -> Reranked:
    """Orders the hits of one modality by a pair model's match score, within the places that they hold.

    A pair model (VACSR, CLIP) scores images with texts, so it cannot score a text that was found for a text. The first
    stage decides which places belong to which modality.

    Args:
      hits: of one query, [k].
      score: ids -> match_score and logit, with probability and uncertainty or None, as `vacsr_jax.load(...).score`
        gives them for the query and the documents of these ids, in any shape with one number for each.
      modality: the one to reorder; it differs from the query's.
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
