"""A trained model's match score as the common scale of mixed search."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.scoring.model import score_pairs
from vacsr_jax.search.standardize.compare import Match


def match_by(model: ImageTextModel, params) -> Match:
    """A function that scores any two embeddings as a trained model scores an image and a text.

    Beyond the papers. The files hold unit vectors, so a propensity model scores by its match logit alone. Pairs of two
    texts were never trained.

    Raises:
      ValueError: if the model needs more than unit vectors.
    """

    def match(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        got, expected = documents.shape[1], model.embedding_dim
        if got != expected:
            raise ValueError(f"embeddings have {got} dimensions and the model's {expected}; it did not make them")
        items = (jax.device_get(model.pair.from_unit(jnp.asarray(x))) for x in (queries, documents))
        return score_pairs(model, params, *items).by_match()

    model.pair.from_unit(jnp.ones((1, model.embedding_dim)))  # raises now if the model needs more than unit vectors
    return match
