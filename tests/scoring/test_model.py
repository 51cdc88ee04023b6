"""The precision that pairs are scored in, and the logistic function at both ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from tests.small_models import untrained
from vacsr_jax.ops import precision
from vacsr_jax.scoring.model import prepare_scorer, score_pairs, sigmoid


@pytest.mark.slow
def test_a_bfloat16_model_scores_alike_with_and_without_units_for_it(monkeypatch):
    pretrained = untrained()
    model = pretrained.model.clone(dtype=jnp.bfloat16)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    images, texts = pretrained.encode_images(list(pictures)), pretrained.encode_texts(["a red dot", "blue"])
    logits = {}
    for units, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "has_bfloat16_units", lambda units=units: units)
        assert prepare_scorer(model, pretrained.params).trunk_kernel.dtype == name
        logits[name] = score_pairs(model, pretrained.params, images, texts).logit
    np.testing.assert_allclose(logits["bfloat16"], logits["float32"], rtol=1e-2)
    assert (logits["bfloat16"] != logits["float32"]).any()


def test_sigmoid_to_its_last_digits():
    x = np.array([-200, -80, -30, -3, -1e-3, 0, 1e-3, 3, 30, 80, 200], np.float32)
    found = sigmoid(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expit(x.astype(np.float64)), rtol=3e-7, atol=1e-38)
