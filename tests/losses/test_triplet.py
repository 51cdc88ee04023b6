import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.losses.triplet import triplet

SIMILARITY = np.random.default_rng(0).uniform(-1, 1, size=(4, 4))
LABELS = np.eye(4, dtype=bool)
LABELS[0, 2] = LABELS[2, 0] = True
ALL = jnp.ones((4, 4), bool)


def by_hand(hardest):
    rows, columns = [], []
    for i in range(4):
        others = [j for j in range(4) if not LABELS[i, j]]
        rows.append([max(0, 0.2 + SIMILARITY[i, j] - SIMILARITY[i, i]) for j in others])
        columns.append([max(0, 0.2 + SIMILARITY[j, i] - SIMILARITY[i, i]) for j in others])
    take = max if hardest else sum
    return sum(map(take, rows)), sum(map(take, columns))


@pytest.mark.parametrize("hardest", [True, False])
def test_by_hand(hardest):
    rows, columns = by_hand(hardest)
    similarity = jnp.asarray(SIMILARITY, jnp.float32)
    loss, terms = triplet(similarity, jnp.asarray(LABELS), ALL, margin=0.2, hardest=hardest)
    np.testing.assert_allclose([terms["i2t"], terms["t2i"], loss], [rows, columns, rows + columns], rtol=1e-5)


def test_padding_changes_nothing():
    valid = jnp.zeros((6, 6), bool).at[:4, :4].set(True)
    padded = jnp.full((6, 6), 1e3).at[:4, :4].set(SIMILARITY)
    labels = jnp.eye(6, dtype=bool).at[:4, :4].set(LABELS)
    np.testing.assert_allclose(triplet(padded, labels, valid, margin=0.2)[0], sum(by_hand(True)), rtol=1e-5)


def test_gradients_against_finite_differences():
    with jax.enable_x64(True):
        loss = jax.jit(lambda x: triplet(x, jnp.asarray(LABELS), ALL, margin=0.2)[0])
        gradient = jax.grad(loss)(jnp.asarray(SIMILARITY))
        for i, j in ((0, 0), (1, 3), (2, 1)):
            step = np.zeros((4, 4))
            step[i, j] = 1e-7
            finite = (loss(SIMILARITY + step) - loss(SIMILARITY - step)) / 2e-7
            np.testing.assert_allclose(gradient[i, j], finite, atol=1e-6)
