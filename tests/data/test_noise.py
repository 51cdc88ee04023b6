"""Noisy correspondence: exactly the asked share of captions, each beside another pair."""

import numpy as np
import pytest

from vacsr_jax.data.noise import permute_captions


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.999, 1.0])
def test_exactly_the_asked_fraction_moves(fraction):
    order = permute_captions(1000, fraction, seed=0)
    assert (order != np.arange(1000)).sum() == round(1000 * fraction)


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_every_caption_is_kept_once(fraction):
    np.testing.assert_array_equal(np.sort(permute_captions(777, fraction, seed=3)), np.arange(777))


@pytest.mark.parametrize("seed", range(20))
def test_none_of_the_chosen_stays_even_among_few(seed):
    assert (permute_captions(3, 1.0, seed=seed) != np.arange(3)).all()
    assert (permute_captions(10, 0.2, seed=seed) != np.arange(10)).sum() == 2


def test_the_chosen_are_spread_over_all_pairs():
    moved = np.flatnonzero(permute_captions(10_000, 0.5, seed=0) != np.arange(10_000))
    shares = np.histogram(moved, 10, (0, 10_000))[0] / 1000
    assert shares.min() > 0.44
    assert shares.max() < 0.56


def test_the_seed_decides():
    np.testing.assert_array_equal(permute_captions(500, 0.4, seed=1), permute_captions(500, 0.4, seed=1))
    assert (permute_captions(500, 0.4, seed=1) != permute_captions(500, 0.4, seed=2)).any()


def test_no_pairs_is_no_error():
    assert permute_captions(0, 0.5, seed=0).shape == (0,)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, 20, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(ValueError, match=r"data\.noise: got .*, expected a fraction between 0 and 1"):
        permute_captions(10, fraction, seed=0)
