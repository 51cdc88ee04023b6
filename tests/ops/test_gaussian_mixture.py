import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vacsr_jax.ops import gaussian_mixture as mixture


@pytest.fixture
def posterior():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=3), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 4)) * 0.7, jnp.float32),
    )


def numpy_mixture_log_prob(z, logits, mean, log_var):
    alpha = np.exp(logits) / np.exp(logits).sum()
    densities = [
        a * multivariate_normal.pdf(z, m, np.diag(np.exp(v))) for a, m, v in zip(alpha, mean, log_var, strict=True)
    ]
    return np.log(np.sum(densities, axis=0))


def float64(posterior):
    return (np.asarray(x, np.float64) for x in posterior)


def test_kl_of_one_gaussian_by_hand():
    # KL[N(1, 4) || N(0, 1)] = (1 + 4 - log 4 - 1) / 2, in each of two dimensions.
    kl = mixture.kl_to_standard_normal(jnp.ones(2), jnp.log(4 * jnp.ones(2)))
    np.testing.assert_allclose(kl, 4 - np.log(4), rtol=1e-6)
    assert mixture.kl_to_standard_normal(jnp.zeros(3), jnp.zeros(3)) == 0


def test_the_kl_bound_lies_above_the_monte_carlo_kl(posterior):
    logits, mean, log_var = float64(posterior)
    rng = np.random.default_rng(2)
    n = 40_000
    component = rng.choice(3, n, p=np.exp(logits) / np.exp(logits).sum())
    z = mean[component] + np.exp(log_var[component] / 2) * rng.normal(size=(n, 4))
    ratio = numpy_mixture_log_prob(z, logits, mean, log_var) - multivariate_normal.logpdf(z, np.zeros(4))
    error = ratio.std() / np.sqrt(n)
    bound = float(mixture.kl_upper_bound(*posterior))
    assert bound > ratio.mean() + 5 * error
    # It is no looser than the entropy of the mixing proportions allows.
    alpha = np.exp(logits) / np.exp(logits).sum()
    assert bound < ratio.mean() + 5 * error - np.sum(alpha * np.log(alpha))


def test_the_kl_bound_is_exact_for_equal_components():
    mean, log_var = jnp.ones((2, 3)), jnp.full((2, 3), 0.4)
    exact = mixture.kl_to_standard_normal(mean[0], log_var[0])
    np.testing.assert_allclose(mixture.kl_upper_bound(jnp.array([0.3, -1.0]), mean, log_var), exact, rtol=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_component_weights_choose_components_with_probability_alpha(hard):
    logits = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    gumbel = jax.random.gumbel(jax.random.key(0), (20_000, 3))
    weights = mixture.component_weights(logits, gumbel, temperature=0.7, hard=hard)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    chosen = np.bincount(np.argmax(weights, axis=-1), minlength=3) / 20_000
    np.testing.assert_allclose(chosen, [0.2, 0.5, 0.3], atol=0.015)
    if hard:
        np.testing.assert_allclose(jnp.max(weights, axis=-1), 1, rtol=1e-6)


def test_hard_weights_have_the_soft_gradient():
    gumbel = jax.random.gumbel(jax.random.key(0), (3,))

    def first(logits, hard):
        return mixture.component_weights(logits, gumbel, temperature=1.0, hard=hard)[0]

    logits = jnp.array([0.1, -0.4, 0.2])
    np.testing.assert_allclose(jax.grad(first)(logits, True), jax.grad(first)(logits, False), rtol=1e-5)


@pytest.mark.parametrize("log_var", [-100.0, -30.0, 30.0, 80.0])
def test_finite_at_extreme_variances(log_var):
    mean, log_vars = jnp.ones((2, 3)), jnp.full((2, 3), log_var)
    value, grad = jax.value_and_grad(lambda v: mixture.kl_upper_bound(jnp.zeros(2), mean, v))(log_vars)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_a_variance_beyond_float32_is_infinitely_far_and_no_nan():
    value, grad = jax.value_and_grad(lambda v: mixture.kl_upper_bound(jnp.zeros(2), jnp.ones((2, 3)), v))(
        jnp.full((2, 3), 100.0)
    )
    assert value == np.inf  # e^100; the run stops there, naming the step
    assert (grad == np.inf).all()
