"""Reranking keeps the places of a modality and changes which items hold them."""

from types import SimpleNamespace

import numpy as np

from vacsr_jax.search.index.rerank import rerank_hits
from vacsr_jax.search.standardize.ranking import Hits

HITS = Hits(
    np.array(["t0", "i0", "i1", "t1", "i2"], object),
    np.array(["text", "image", "image", "text", "image"], object),
    np.array([0.9, 0.3, 0.28, 0.7, 0.2], np.float32),
    np.array([2, 1.5, 1, 0.5, 0.1], np.float32),
)
LOGIT = {"i0": -1.0, "i1": 3.0, "i2": 0.5}


def test_the_other_modality_is_put_in_order_in_its_places():
    asked = []

    def score(ids):
        asked.extend(ids)
        logit = np.array([[LOGIT[x]] for x in ids])  # [images, texts]
        return SimpleNamespace(
            logit=logit, match_score=logit, probability=1 / (1 + np.exp(-logit)), uncertainty=np.abs(logit)
        )

    found = rerank_hits(HITS, score, "image")
    assert asked == ["i0", "i1", "i2"]
    assert found.hits.ids.tolist() == ["t0", "i1", "i2", "t1", "i0"]
    assert found.hits.modality.tolist() == HITS.modality.tolist()
    np.testing.assert_allclose(found.hits.score, [0.9, 0.28, 0.2, 0.7, 0.3])
    np.testing.assert_allclose(found.hits.z, [2, 1, 0.1, 0.5, 1.5])
    np.testing.assert_allclose(found.logit, [np.nan, 3, 0.5, np.nan, -1])
    np.testing.assert_allclose(found.uncertainty, [np.nan, 3, 0.5, np.nan, 1])
    np.testing.assert_allclose(found.probability[1], 1 / (1 + np.exp(-3)))


def test_a_model_without_probability_and_uncertainty():
    scores = SimpleNamespace(logit=np.zeros(2), match_score=np.zeros(2), probability=None, uncertainty=None)
    found = rerank_hits(HITS, lambda ids: scores, "text")
    assert found.hits.ids.tolist() == HITS.ids.tolist()  # equal logits change nothing
    assert np.isnan(found.probability).all()
    assert np.isnan(found.uncertainty).all()


def test_nothing_to_look_at():
    found = rerank_hits(HITS, lambda ids: 1 / 0, "audio")
    assert found.hits.ids.tolist() == HITS.ids.tolist()
    assert np.isnan(found.logit).all()
