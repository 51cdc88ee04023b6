"""The calibration finds drawn probabilities from labels alone, and its gradient is that of finite differences."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit

from tests.parity import methods
from vacsr_jax.losses.label_likelihood import START, negative_log_likelihood
from vacsr_jax.metrics.calibration import expected_calibration_error
from vacsr_jax.pair.base import PairScores
from vacsr_jax.pair.calibration import fit_calibration

RNG = np.random.default_rng(0)


def drawn(n=120, m=500, noise=0.0):
    """True match logits, the propensity of a label, and labels as drawn; matches of a general text are rarely labelled.

    The model's match logit is too low, and its propensity too high by as much.
    """
    q = RNG.normal(-5, 3, (n, m)) + RNG.normal(0, 2, m)
    e = np.broadcast_to(-np.log(expit(q).sum(axis=0)), (n, m))
    labels = RNG.random((n, m)) < (1 - noise) * expit(q) * expit(e)
    labels |= RNG.random((n, m)) < noise / n
    return q, (q - 4) / 1.5, e + 3, labels


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_labels_alone_give_the_probabilities_back(noise):
    q, a, h, labels = drawn(noise=noise)
    matches = RNG.random(q.shape) < expit(q)
    slope, shift = fit_calibration(a, h, labels)
    assert expected_calibration_error(expit(a), matches) > 0.05
    assert slope > 1  # 1.5 and 4 drew them; the prior holds back
    assert shift > 2
    assert expected_calibration_error(expit(slope * a + shift), matches) < 0.02


def test_few_labels_move_little():
    slope, shift = fit_calibration(np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2))
    assert 0.5 < slope < 2
    assert abs(shift) < 2
    assert np.isfinite(fit_calibration(np.full((3, 2), 1e4), np.full((3, 2), -1e4), np.ones((3, 2)))).all()


def test_the_gradient_is_that_of_finite_differences():
    _, a, h, labels = (x[:20].ravel() for x in drawn())
    weights, theta = RNG.uniform(1, 10, a.shape), START + np.array([0.3, 1, -1, 2])

    def value(t):
        return negative_log_likelihood(t, a, h, labels, weights, 20)

    finite = [(value(theta + d)[0] - value(theta - d)[0]) / 2e-5 for d in 1e-5 * np.eye(4)]
    np.testing.assert_allclose(value(theta)[1], finite, rtol=1e-5)


@pytest.mark.slow
def test_a_model_takes_it_and_ranks_as_before():
    """Twice in a row gives the same numbers: the second fit sees the model's own logit, not the calibrated one."""
    _, model = methods.model_of("propensity, tokens")
    pair, params = model.pair, methods.params_of("propensity, tokens")["pair"]
    _, a, h, labels = drawn(40, 60)
    raw = PairScores(jnp.asarray(a), None, log_expit(a) + h, log_expit(a))
    before = {**params, "match": {**params["match"], "calibration": np.float32([1, 0])}}
    once = pair.calibrate(before, raw, labels)
    slope, shift = once["match"]["calibration"]
    assert (slope, shift) == pytest.approx(fit_calibration(a, h, labels), rel=1e-5)
    again = pair.calibrate(once, raw._replace(logit=slope * a + shift), labels)
    np.testing.assert_allclose(again["match"]["calibration"], [slope, shift], rtol=1e-3)
    for name in ("log_scale", "claim"):
        assert once["match"][name] is params["match"][name]
    _, cosine = methods.model_of("propensity")
    params = {"match": {"bias": 0.0}}
    assert cosine.pair.calibrate(params, raw, labels) is params
