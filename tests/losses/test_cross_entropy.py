"""Cross-entropy over classes, against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from vacsr_jax.losses.contrastive import cross_entropy


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_class():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 9)), rng.integers(0, 9, 6)
    positives = labels[:, None] == np.arange(9)
    loss, terms = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(positives), jnp.ones((6, 9), bool))
    expected = -log_softmax(logits, axis=1)[np.arange(6), labels].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert terms["loss"] == loss
