"""Both probabilities are Bayes' rule, and the fit gives back what drew the labels, with an interval."""

import numpy as np
import pytest
from scipy.special import expit, logit, logsumexp

from vacsr_jax.audit import label_model
from vacsr_jax.losses.label_likelihood import label_slopes, negative_log_likelihood

THETA = np.array([0.3, -0.5, 0.8, -1.2])


def test_the_posteriors_are_those_of_the_three_ways_to_a_label():
    """By enumeration: does it match, does the match get the label, does the floor put a label there."""
    rng = np.random.default_rng(0)
    a, h, n = rng.normal(0, 3, 50), rng.normal(0, 2, 50), 40
    q, e = expit(np.exp(0.3) * a - 0.5), expit(h + 0.8)
    floor = expit(-1.2) / n
    right = (1 - floor * n) * q * e
    p_wrong = floor / (right + floor)
    p_match = q * (1 - right / q - floor) / (1 - right - floor)
    right_of = label_model.right_logit(THETA, a, h)
    np.testing.assert_allclose(np.exp(right_of), q * e, rtol=1e-12)
    z = label_model.wrong_logit(THETA[3], n, right_of)
    np.testing.assert_allclose(expit(z), p_wrong, rtol=1e-12)
    np.testing.assert_allclose(expit(label_model.match_logit(THETA, n, a, h)), p_match, rtol=1e-12)


def test_among_more_images_a_match_gets_the_label_more_rarely():
    fitted = label_model.LabelModel(THETA, np.eye(4), 101, None)
    odds = np.exp([fitted.theta[2], fitted.among(1001).theta[2]])
    assert odds[0] / odds[1] == pytest.approx(10)
    np.testing.assert_array_equal(fitted.among(1001).theta[[0, 1, 3]], THETA[[0, 1, 3]])


def test_slopes_sum_to_the_gradient():
    rng = np.random.default_rng(0)
    a, h, y = rng.normal(0, 2, 90), rng.normal(-2, 1, 90), rng.random(90) < 0.2
    arguments = (a, h, y, rng.uniform(1, 3, 90), 30)
    found = negative_log_likelihood(THETA, *arguments)[1]
    np.testing.assert_allclose(label_slopes(THETA, *arguments)[1].sum(axis=1), found)


def drawn(rng, noise, n=100, m=500):
    """Labels drawn pair by pair, with the propensity of a caption that is true of many images small."""
    a = rng.normal(-5, 3, (n, m)) + rng.normal(0, 1.5, m)
    q = expit(a)
    h = np.broadcast_to(-np.log(q.sum(axis=0)), (n, m))
    match = rng.random((n, m)) < q
    right = match & (rng.random((n, m)) < (1 - noise) * expit(h))
    wrong = ~right & (rng.random((n, m)) < noise / n)
    return a, h, right | wrong, match, wrong


@pytest.mark.parametrize("noise", [0.15, 0.7])
def test_the_share_of_wrong_labels_is_found_with_its_interval(noise):
    rng = np.random.default_rng(1)
    blocks = [drawn(rng, noise) for _ in range(2)]
    fitted = label_model.fit([(a, h, y, np.arange(500) + 500 * k) for k, (a, h, y, _, _) in enumerate(blocks)])
    assert abs(logit(fitted.noise_rate) - logit(noise)) < 2.5 * fitted.noise_error
    assert 0.02 < fitted.noise_error < 0.3
    a, h, y, match, wrong = blocks[0]
    p = expit(label_model.wrong_logit(fitted.theta[3], 100, label_model.right_logit(fitted.theta, a, h)))
    assert p[wrong].mean() > p[y & ~wrong].mean() + 0.3
    assert p[y].mean() == pytest.approx(wrong[y].mean(), abs=0.08)
    expected = np.log(expit(label_model.match_logit(fitted.theta, 100, a, h))[~y].sum())
    assert abs(expected - np.log(match[~y].sum())) < 2.5 * fitted.missing_error() < 0.5


def test_a_caption_has_one_label():
    """With one label for each caption, r sums to 1 over the images, and nu is found from it with its interval."""
    rng = np.random.default_rng(3)
    n, m, noise = 80, 3000, 0.3
    right = rng.normal(0, 3, (n, m))
    r = np.exp(right - logsumexp(right, axis=0))
    wrong = rng.random(m) < noise
    image = np.where(wrong, rng.integers(0, n, m), [rng.choice(n, p=column) for column in r.T])
    place = (image, np.arange(m))
    log_r = label_model.label_share(right[place], logsumexp(right, axis=0))
    np.testing.assert_allclose(np.exp(log_r), r[place])
    t, error = label_model.fit_noise(log_r, n, image)
    assert abs(t - logit(noise)) < 2.5 * error
    assert 0.02 < error < 0.3
    p = expit(label_model.wrong_logit(t, n, log_r))
    np.testing.assert_allclose(p, expit(t) / n / (expit(t) / n + expit(-t) * r[place]), rtol=1e-9)
    assert p.mean() == pytest.approx(wrong.mean(), abs=0.03)
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 1)):
        mine = (p >= low) & (p < high)
        assert p[mine].mean() == pytest.approx(wrong[mine].mean(), abs=0.07)


def test_the_best_of_many_bad_fits_is_no_right_label():
    right = np.log(np.array([1e-5, 1e-6]))
    np.testing.assert_allclose(label_model.label_share(right, np.log(np.full(2, 2e-5))), np.log([1e-4, 1e-5]))
