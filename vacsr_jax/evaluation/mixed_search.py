"""A trained model's match score as the common scale of mixed search."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vacsr_jax.evaluation.retrieval import score_pairs
from vacsr_jax.models.image_text import ImageTextModel
from vacsr_jax.search.standardize.compare import Match


def match_by(model: ImageTextModel, params) -> Match:
    """A trained model's own logit as the common scale: a pair of any two embeddings is scored as image and text are.

    Beyond the papers. Its probability of a match is sigmoid(logit), so both rank alike; pairs of two texts were never
    trained.

    Raises:
      ValueError: if the model does not normalise embeddings, whose length the files do not keep.
    """
    if getattr(model.pair, "embeddings", "unit") != "unit":
        raise ValueError("the model was trained on raw embeddings; files of embeddings hold unit vectors")

    def match(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
        got, expected = bank.shape[1], model.clip.embedding_dim
        if got != expected:
            raise ValueError(f"embeddings have {got} dimensions and the model's {expected}; it did not make them")
        prepared = (np.asarray(model.pair.prepare(jnp.asarray(x))) for x in (queries, bank))
        return score_pairs(model, params, *prepared).by_match()

    return match
