"""The scale and the weight of text entropy, found on pairs whose own are known."""

import numpy as np
import pytest

from vacsr_jax.evaluation.text_entropy import choose_weight, fit_scale


def test_the_scale_that_labels_were_drawn_with_is_found():
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, size=(20, 4000))
    p = np.exp(8 * cosines) / np.exp(8 * cosines).sum(axis=0)
    image = (rng.uniform(size=4000) > np.cumsum(p, axis=0)).sum(axis=0)
    positives = np.arange(20)[:, None] == image
    assert fit_scale(cosines, positives) == pytest.approx(8, rel=0.03)
    with pytest.raises(ValueError, match="0 labelled pairs"):
        fit_scale(cosines, np.zeros_like(positives))


def test_the_weight_that_labels_prefer_is_chosen_and_of_equals_the_first():
    scores, positives = np.eye(3), np.eye(3, dtype=bool)
    assert choose_weight(scores, np.zeros(3), positives, (0.5, 0.0, 1.0)) == 0.5
    assert choose_weight(scores - [0, 0, 2], np.array([0, 0, 2.0]), positives) == 1.0
