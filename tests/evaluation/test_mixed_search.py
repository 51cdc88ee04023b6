"""A model's own match score as the scale of mixed search."""

import numpy as np
import pytest

from vacsr_jax.evaluation.mixed_search import match_by
from vacsr_jax.models.clip_config import CLIP_CONFIGS
from vacsr_jax.models.image_text import ImageTextModel
from vacsr_jax.models.pair_models import CosineModel, DeterministicAdapter


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_a_models_own_score_is_its_logit_of_embeddings_it_made():
    x = unit(np.random.default_rng(0).normal(size=(3, 64)))
    params = {"pair": {"log_scale": np.float32(2.0), "bias": np.float32(-1.0)}}
    match = match_by(ImageTextModel(CLIP_CONFIGS["tiny"], CosineModel(0.0)), params)
    np.testing.assert_allclose(match(x[:2], x), np.exp(2.0) * x[:2] @ x.T - 1, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="embeddings have 5 dimensions and the model's 64"):
        match(x[:, :5], x[:, :5])
    raw = DeterministicAdapter(dim=64, width=8, embeddings="raw", initial_logit=0.0)
    with pytest.raises(ValueError, match="trained on raw embeddings"):
        match_by(ImageTextModel(CLIP_CONFIGS["tiny"], raw), {})
