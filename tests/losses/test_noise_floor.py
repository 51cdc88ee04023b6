"""The noise floor for wrong labels, by hand in float64."""

import jax.numpy as jnp
import numpy as np

from vacsr_jax.losses.contrastive import sigmoid
from vacsr_jax.losses.propensity import add_noise_floor

RNG = np.random.default_rng(0)
R = RNG.normal(size=(3, 4))
LABELS = jnp.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1.0]])  # the second image has two captions
ALL = jnp.ones((3, 4), bool)


def test_by_hand():
    nu = 0.2
    found = add_noise_floor(jnp.asarray(R, jnp.float32), jnp.float32(np.log(nu / (1 - nu))), LABELS, ALL)
    negatives = np.array([3, 2, 3])[:, None]
    np.testing.assert_allclose(found, np.log(np.exp(R) + nu / negatives), rtol=1e-5)


def test_without_noise_it_is_the_label_logit():
    np.testing.assert_allclose(
        add_noise_floor(jnp.asarray(R, jnp.float32), jnp.float32(-50), LABELS, ALL), R, rtol=1e-6
    )


def test_padding_changes_nothing():
    padded, labels = np.full((5, 6), 37.0), np.zeros((5, 6))
    padded[:3, :4], labels[:3, :4] = R, LABELS
    valid = jnp.zeros((5, 6), bool).at[:3, :4].set(True)

    def loss_of(r, labels, valid):
        r = jnp.asarray(r, jnp.float32)
        return sigmoid(add_noise_floor(r, jnp.float32(0), labels, valid), labels, valid)[0]

    np.testing.assert_allclose(
        loss_of(padded, jnp.asarray(labels, jnp.float32), valid), loss_of(R, LABELS, ALL), rtol=1e-6
    )
