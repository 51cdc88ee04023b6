"""Calibration: fits against independent ones and drawn truths, its file, and what is said of too little data."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from vacsr_jax.calibration import CALIBRATION, Calibration, fit_labelled, fit_pairs
from vacsr_jax.calibration.calibration import read_calibration
from vacsr_jax.calibration.labelled import out_of_fold
from vacsr_jax.calibration.pairs import Fit
from vacsr_jax.metrics.calibration import ece_by_chance, expected_calibration_error, wilson_interval


def labelled(n=400, slope=30.0, intercept=-8.0, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.normal(0.25, 0.08, n)
    return score, rng.random(n) < expit(slope * score + intercept)


def test_platt_scaling_equals_an_independent_minimum():
    score, match = labelled()
    fit, p = fit_labelled(score, match), match.sum()
    target = np.where(match, (p + 1) / (p + 2), 1 / (len(match) - p + 2))

    def loss(w):
        z = w[0] * score + w[1]
        return np.sum(np.logaddexp(0, z) - target * z)

    expected = minimize(loss, [10.0, 0.0], method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose([fit.slope, fit.intercept], expected.x, rtol=1e-4)
    slope, both, intercept = fit.covariance
    x, q = np.stack([score, np.ones_like(score)]), expit(expected.x[0] * score + expected.x[1])
    covariance = np.linalg.inv(x * (q * (1 - q)) @ x.T)
    np.testing.assert_allclose([[slope, both], [both, intercept]], covariance, rtol=1e-3)
    assert fit.probability(np.float32(0.3)).dtype == np.float32
    np.testing.assert_allclose(fit.probability(score), expit(fit.slope * score + fit.intercept))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = []
    for seed in range(60):
        fit = fit_labelled(*labelled(200, seed=seed))
        x = np.array([0.15, 0.3])
        covered.append(np.abs(fit.probability(x) - expit(30 * x - 8)) < 1.96 * fit.standard_error(x))
    assert np.mean(covered) > 0.88


def test_separable_pairs_have_a_finite_fit_and_folds_are_held_out():
    score = np.linspace(0, 1, 40)
    fit = fit_labelled(score, score > 0.5)
    assert np.isfinite(fit.slope)
    assert fit.slope > 0
    score, match = labelled()
    seen = out_of_fold(score, match)
    assert expected_calibration_error(seen, match, equal_mass=True) < 0.1
    assert not np.allclose(seen, fit_labelled(score, match).probability(score), atol=1e-6)


@pytest.mark.parametrize(
    ("score", "match", "message"),
    [
        (np.zeros(3), np.ones(3, bool), "3 of 3 pairs are matches, expected some of both kinds"),
        (np.zeros(3), np.ones(2, bool), r"got bool \[2\] for 3 scores"),
        (np.zeros(3), np.ones(3), "got float64"),
        (np.array([0, np.nan, 1]), np.array([True, False, True]), "a score is not finite"),
    ],
)
def test_labels_that_fit_nothing_are_refused(score, match, message):
    with pytest.raises(ValueError, match=message):
        fit_labelled(score, match)


def drawn_pairs(n=300, extra=2.0, noise=0.0, seed=0):
    """Scores of a known logistic truth; each text is labelled with one of its matches, or anywhere (noise)."""
    rng = np.random.default_rng(seed)
    match = np.eye(n, dtype=bool) | (rng.random((n, n)) < extra / n)
    # Two normals of the same width have logistic posterior odds.
    scores = rng.normal(np.where(match, 0.32, 0.17), 0.03)
    labels = np.zeros((n, n), bool)
    for j in range(n):
        wrong = rng.random() < noise
        labels[rng.integers(n) if wrong else rng.choice(np.flatnonzero(match[:, j])), j] = True
    return scores, labels, match


@pytest.mark.parametrize("noise", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_pairs_alone_find_the_unlabelled_matches_and_the_wrong_labels(noise):
    scores, labels, match = drawn_pairs(noise=noise)
    fit = fit_pairs(scores, labels)
    assert fit.noise_rate == pytest.approx(noise, abs=0.08)
    assert fit.propensity == pytest.approx(1 / 3, abs=0.1)  # one label for the 3 matches that a text has on average
    probability = fit.probability(scores)
    assert expected_calibration_error(probability, match) < 0.002
    # As if every other pair were a non-match, the probability would be a third of the truth.
    naive = fit_labelled(scores.ravel(), labels.ravel()).probability(scores)
    assert probability[match].mean() > 0.85
    assert naive[match].mean() < 0.6
    predicted = Fit(fit.slope, fit.intercept, fit.propensity, fit.noise_rate).label_probability(scores)
    assert expected_calibration_error(predicted, labels, equal_mass=True) < 2 * ece_by_chance(
        predicted, equal_mass=True
    )


def test_pairs_that_are_no_pairs():
    scores = np.zeros((3, 3))
    with pytest.raises(ValueError, match="0 pairs of 3 images, expected at least 2"):
        fit_pairs(scores, np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match=r"got bool \[2, 2\], expected bool \[3, 3\]"):
        fit_pairs(scores, np.eye(2, dtype=bool))


def test_it_says_when_there_is_too_little_data():
    many = fit_labelled(*labelled(800))
    score, _ = labelled(800)
    assert many.cautions(score) == []
    few = fit_labelled(*labelled(16))
    assert any("only" in x for x in few.cautions(score))
    assert any("is known to ±" in x for x in few.cautions(score))
    score, match = labelled()
    assert any("worth nothing" in x for x in fit_labelled(-score, match).cautions(-score))


def test_the_file_comes_back_and_a_damaged_one_is_named(tmp_path):
    found = dataclasses.replace(fit_labelled(*labelled()), ece=0.01, step=7)
    assert read_calibration(tmp_path) is None
    found.save(tmp_path)
    assert read_calibration(tmp_path) == found
    for text in ("{}", '{"slope": 1}', "[1]", '{"covariance": [1, 2]}'):
        (tmp_path / CALIBRATION).write_text(text)
        with pytest.raises(ValueError, match=r"calibration.json is damaged"):
            read_calibration(tmp_path)


def test_chance_and_intervals():
    p = np.full(2000, 0.3)
    chance = ece_by_chance(p)
    assert 0.01 < chance < 0.04  # 1.96 sqrt(.3 .7 / 2000) = .02
    low, high = wilson_interval(np.array([0.0, 0.5]), np.array([20, 20]))
    np.testing.assert_allclose(low, [0, 0.299], atol=1e-3)
    np.testing.assert_allclose(high, [0.161, 0.701], atol=1e-3)
    assert isinstance(fit_labelled(*labelled()), Calibration)
