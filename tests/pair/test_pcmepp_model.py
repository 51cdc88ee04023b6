import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.pair.pcmepp import GaussianDistance, GaussianScorer, gaussian
from vacsr_jax.scoring.pairs import top_k

RNG = np.random.default_rng(0)


def test_the_closed_form_is_the_mean_squared_distance_of_samples():
    model = GaussianDistance()
    means, log_vars = ([RNG.normal(size=(n, 3)) for n in (4, 5)] for _ in range(2))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in means]
    images, texts = (
        gaussian(jnp.asarray(m, jnp.float32), jnp.asarray(s, jnp.float32)) for m, s in zip(means, log_vars, strict=True)
    )
    params = model.init(jax.random.key(0), images, texts)
    scorer = model.apply(params, method="scorer")
    scores = scorer.score_tile(images, texts)
    np.testing.assert_array_equal(scores.logit, model.apply(params, images, texts))

    listed = scorer.score_listed(images, texts[jnp.array([[0, 4], [1, 1], [3, 2], [0, 0]])])
    np.testing.assert_allclose(listed.logit[0], scores.logit[0, jnp.array([0, 4])], rtol=1e-5)
    np.testing.assert_allclose(listed.uncertainty[2], scores.uncertainty[2, jnp.array([3, 2])], rtol=1e-5)

    differences = unit[0][:, None] - unit[1][None]  # n x m x d, as the public code has it
    spread = np.exp(log_vars[0]).sum(1)[:, None] + np.exp(log_vars[1]).sum(1)
    np.testing.assert_allclose(scores.logit, 5 - 5 * ((differences**2).sum(-1) + spread), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores.uncertainty, spread, rtol=1e-5)

    n = 200_000
    draws = [m[0] + np.exp(s[0] / 2) * RNG.normal(size=(n, 3)) for m, s in zip(unit, log_vars, strict=True)]
    sampled = ((draws[0] - draws[1]) ** 2).sum(1).mean()
    np.testing.assert_allclose((5 - float(scores.logit[0, 0])) / 5, sampled, rtol=0.02)


def test_a_zero_mean_stays_finite():
    prepared = gaussian(jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    assert np.isfinite(prepared).all()


def test_the_best_texts_of_each_image_come_with_their_variance():
    images, texts = (jnp.asarray(RNG.normal(size=(n, 6)), jnp.float32) for n in (4, 7))
    scorer = GaussianScorer(jnp.float32(3), jnp.float32(1))
    whole, best = scorer.score_tile(images, texts), top_k(scorer, images, texts, 2)
    order = np.argsort(-np.asarray(whole.logit), axis=1)[:, :2]
    np.testing.assert_array_equal(best.index, order)
    np.testing.assert_allclose(best.uncertainty, np.take_along_axis(np.asarray(whole.uncertainty), order, 1), rtol=1e-5)
