"""The logistic function of the scores, at both ends."""

import numpy as np
from scipy.special import expit

from vacsr_jax.scoring.model import sigmoid


def test_sigmoid_to_its_last_digits():
    x = np.array([-200, -80, -30, -3, -1e-3, 0, 1e-3, 3, 30, 80, 200], np.float32)
    found = sigmoid(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expit(x.astype(np.float64)), rtol=3e-7, atol=1e-38)
