"""Reliability curve and ECE against hand-made tables and a naive reference."""

import numpy as np
import pytest

from vacsr_jax.metrics.calibration import expected_calibration_error, reliability

P = np.array([0.0, 0.1, 0.2, 0.25, 0.6, 0.75, 1.0])
Y = np.array([0, 0, 1, 0, 1, 1, 0], bool)


def test_equal_width_by_hand():
    curve = reliability(P, Y, bins=4)  # [0, .25], (.25, .5] empty, (.5, .75], (.75, 1]
    assert curve.count.tolist() == [4, 2, 1]
    np.testing.assert_allclose(curve.confidence, [0.1375, 0.675, 1.0])
    np.testing.assert_allclose(curve.accuracy, [0.25, 1.0, 0.0])
    expected = (4 * 0.1125 + 2 * 0.325 + 1 * 1.0) / 7
    assert expected_calibration_error(P, Y, bins=4) == pytest.approx(expected)


def test_equal_mass_by_hand():
    p, y = np.array([0.01, 0.02, 0.03, 0.9]), np.array([0, 1, 0, 1], bool)
    curve = reliability(p, y, bins=2, equal_mass=True)
    assert curve.count.tolist() == [2, 2]
    np.testing.assert_allclose(curve.accuracy, [0.5, 0.5])
    assert reliability(p, y, bins=2).count.tolist() == [3, 1]


def test_equal_probabilities_share_a_bin():
    p = np.array([0.1] * 8 + [0.5, 0.9])
    curve = reliability(p, np.arange(10) < 4, bins=5, equal_mass=True)
    assert curve.count.tolist() == [8, 2]
    assert curve.accuracy.tolist() == [0.5, 0]
    assert reliability(np.full(6, 0.3), np.arange(6) < 3, equal_mass=True).count.tolist() == [6]


@pytest.mark.parametrize("bins", [1, 3, 15])
def test_agrees_with_a_naive_reference(bins):
    rng = np.random.default_rng(bins)
    p, y = rng.random((20, 30)).round(2), rng.random((20, 30)) < 0.3
    error = 0.0
    for b in range(bins):
        inside = [(q, t) for q, t in zip(p.ravel(), y.ravel(), strict=True)
                  if (b / bins < q or b == 0) and (q <= (b + 1) / bins)]  # fmt: skip
        error += abs(sum(t for _, t in inside) - sum(q for q, _ in inside)) / p.size
    assert expected_calibration_error(p, y, bins) == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibrated_probabilities_have_a_small_error(equal_mass):
    rng = np.random.default_rng(0)
    p = rng.random(200_000).astype(np.float32) ** 4
    y = rng.random(p.size) < p
    assert expected_calibration_error(p, y, equal_mass=equal_mass) < 0.005
    assert expected_calibration_error(np.sqrt(p), y, equal_mass=equal_mass) > 0.1
    assert reliability(p, y, equal_mass=equal_mass).count.sum() == p.size


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([0.5, 1.5], [True, False], "sigmoid"),
        ([0.5, np.nan], [True, False], "sigmoid"),
        ([0.5], [True, False], "shape"),
        ([], [], "shape"),
        ([0.5, 0.1], [1, 0], "bool"),
    ],
)
def test_bad_input_is_an_error(p, y, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(np.array(p), np.array(y))


def test_bins_below_one_is_an_error():
    with pytest.raises(ValueError, match="bins is 0"):
        reliability(P, Y, bins=0)
