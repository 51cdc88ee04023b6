"""The adapter against float64 numpy, written from the equations and not from the code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import ks_2samp

from tests.small_models import check_gradient, gelu, random_params, variational_adapter
from vacsr_jax.ops import gaussian_mixture as mixture
from vacsr_jax.ops.pairwise import map_pairs
from vacsr_jax.pair.adapter import DeterministicAdapter
from vacsr_jax.pair.cosine import CosineModel

pytestmark = pytest.mark.usefixtures("compile_fast")
D, H, K = 5, 7, 3
ADAPTER = variational_adapter(D, H, components=K)


def change(**fields):
    return dataclasses.replace(ADAPTER, **fields)


def draw_params(adapter, scale=0.7):
    return random_params(adapter, np.random.default_rng(0), scale)


def embeddings(n=4, m=6, d=D, seed=1):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal(size=(x, d)), jnp.float32) for x in (n, m))


def numpy_posterior(params, images, texts):
    """mean, log_var [n m k d] in float64, pair by pair."""
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    images, texts = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    mean = np.empty((len(images), len(texts), K, D))
    log_var = np.empty_like(mean)
    for i, v in enumerate(images):
        for j, t in enumerate(texts):
            hidden = gelu((v * t) @ p["trunk_kernel"] + p["trunk_bias"])
            mean[i, j] = (hidden @ p["mean_kernel"] + p["mean_bias"]).reshape(K, D)
            log_var[i, j] = (hidden @ p["log_var_kernel"] + p["log_var_bias"]).reshape(K, D)
    return p, mean, log_var


def test_training_terms_follow_the_equations():
    params = draw_params(ADAPTER)
    images, texts = embeddings()
    noise = ADAPTER.draw_noise(jax.random.key(3), 4, 6)
    terms = ADAPTER.apply({"params": params}, images, texts, noise)

    p, mean, log_var = numpy_posterior(params, images, texts)
    alpha = softmax(p["mixture_logits"])
    weights = softmax(np.log(alpha) + np.asarray(noise.gumbel, np.float64), axis=-1)
    w, b = p["decoder_kernel"][:, 0], p["decoder_bias"][0]
    np.testing.assert_allclose(terms.score, (alpha @ mean) @ w + b, atol=1e-5)

    kl = 0.5 * (mean**2 + np.exp(log_var) - log_var - 1).sum(-1) @ alpha
    np.testing.assert_allclose(terms.kl, kl, rtol=1e-5)

    centre = np.einsum("nmk,nmkd,d->nm", weights, mean, w) + b
    variance = np.einsum("nmk,nmkd,d->nm", weights**2, np.exp(log_var), w**2)
    logit = centre + np.sqrt(variance) * np.asarray(noise.normal, np.float64)
    np.testing.assert_allclose(terms.logit, logit, atol=1e-5)

    u = expit(np.log(np.einsum("nmk,nmkd->nmd", weights, np.exp(log_var))))
    error = (1 - expit(logit))[..., None] ** 2
    np.testing.assert_allclose(terms.variance_loss, (0.5 * error / u + 0.5 * np.log(u)).mean(-1), rtol=2e-5)


@pytest.mark.parametrize("log_var", [-100.0, 80.0, 100.0])
def test_extreme_log_variances_are_finite_or_stop_the_run(log_var):
    params, (images, texts) = draw_params(ADAPTER, scale=0.1), embeddings()
    noise = ADAPTER.draw_noise(jax.random.key(3), 4, 6)

    def total(bias):
        terms = ADAPTER.apply({"params": {**params, "log_var_bias": bias}}, images, texts, noise)
        return jnp.mean(terms.kl) + jnp.mean(terms.variance_loss) + jnp.mean(jax.nn.softplus(-terms.logit))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.full_like(params["log_var_bias"], log_var))
    fits = log_var < np.log(np.finfo(np.float32).max)
    assert np.isfinite(value) == fits  # beyond e^88 the loss is not finite; training stops and says so
    assert np.isfinite(gradient).all() == fits
    assert value > 0


def test_without_sigmoid_the_variance_loss_takes_the_variance_itself():
    adapter = change(sigmoid=False)
    params, (images, texts) = draw_params(ADAPTER), embeddings()
    noise = adapter.draw_noise(jax.random.key(3), 4, 6)
    terms = adapter.apply({"params": params}, images, texts, noise)
    _, _, log_var = numpy_posterior(params, images, texts)
    weights = softmax(np.asarray(params["mixture_logits"] + noise.gumbel, np.float64), axis=-1)
    variance = np.einsum("nmk,nmkd->nmd", weights, np.exp(log_var))
    error = (1 - expit(np.asarray(terms.logit, np.float64)))[..., None] ** 2
    np.testing.assert_allclose(
        terms.variance_loss, (0.5 * error / variance + 0.5 * np.log(variance)).mean(-1), rtol=1e-4
    )


def test_a_bounded_variance_is_u_in_draws_kl_loss_and_uncertainty():
    adapter = change(bounded=True)
    params, (images, texts) = draw_params(ADAPTER), embeddings()
    noise = adapter.draw_noise(jax.random.key(3), 4, 6)
    terms = adapter.apply({"params": params}, images, texts, noise)
    p, mean, raw = numpy_posterior(params, images, texts)
    u, alpha = expit(raw), softmax(p["mixture_logits"])
    np.testing.assert_allclose(terms.kl, 0.5 * (mean**2 + u - np.log(u) - 1).sum(-1) @ alpha, rtol=1e-5)
    weights = softmax(np.log(alpha) + np.asarray(noise.gumbel, np.float64), axis=-1)
    w, b = p["decoder_kernel"][:, 0], p["decoder_bias"][0]
    deviation = np.sqrt(np.einsum("nmk,nmkd,d->nm", weights**2, u, w**2))
    logit = np.einsum("nmk,nmkd,d->nm", weights, mean, w) + b + deviation * np.asarray(noise.normal, np.float64)
    np.testing.assert_allclose(terms.logit, logit, atol=1e-5)
    mixed, error = np.einsum("nmk,nmkd->nmd", weights, u), (1 - expit(logit))[..., None] ** 2
    np.testing.assert_allclose(terms.variance_loss, (0.5 * error / mixed + 0.5 * np.log(mixed)).mean(-1), rtol=2e-5)
    scores = adapter.apply({"params": params}, method="scorer").score_tile(images, texts)
    np.testing.assert_allclose(scores.uncertainty, np.sqrt(np.einsum("k,nmkd->nmd", alpha, u)).mean(-1), rtol=1e-5)


def test_the_variance_loss_is_least_where_u_is_the_error():
    logit = jnp.full((1, 1), 0.5)
    error = float(1 - expit(0.5)) ** 2
    u = np.linspace(0.02, 0.9, 400)
    values = [ADAPTER.variance_loss(logit, jnp.full((1, 1, D), x / (1 - x)))[0, 0] for x in u]
    assert abs(u[np.argmin(values)] - error) < 0.005


def test_a_pair_that_is_fitted_perfectly_has_a_finite_gradient():
    def loss(log_var):
        return ADAPTER.variance_loss(jnp.full((1, 1), 30.0), jnp.exp(log_var))[0, 0]

    for log_var in (-30.0, -60.0, -100.0):
        assert np.isfinite(jax.grad(loss)(jnp.full((1, 1, D), log_var))).all(), log_var
    assert (jax.grad(loss)(jnp.full((1, 1, D), -30.0)) > 0).all()  # the variance still wants to fall


@pytest.mark.parametrize("decoder_width", [0, 6])
def test_scores_are_those_of_the_posterior_mean(decoder_width):
    adapter = change(decoder_width=decoder_width)
    params, (images, texts) = draw_params(adapter), embeddings()
    scorer = adapter.apply({"params": params}, method="scorer")
    scores = scorer.score_tile(images, texts)
    p, mean, log_var = numpy_posterior(params, images, texts)
    alpha = softmax(p["mixture_logits"])
    z = alpha @ mean
    if decoder_width:
        z = gelu(z @ p["decoder_in_kernel"] + p["decoder_in_bias"])
    np.testing.assert_allclose(scores.logit, z @ p["decoder_kernel"][:, 0] + p["decoder_bias"][0], atol=1e-5)
    sigma = np.sqrt(np.einsum("k,nmkd->nmd", alpha, np.exp(log_var)))
    np.testing.assert_allclose(scores.uncertainty, sigma.mean(-1), rtol=1e-5)


@pytest.mark.parametrize("decoder_width", [0, 6])
@pytest.mark.slow
def test_tiles_change_nothing_in_values_and_gradients(decoder_width):
    adapter = change(decoder_width=decoder_width)
    params, (images, texts) = draw_params(adapter), embeddings(8, 8)
    noise = adapter.draw_noise(jax.random.key(0), 8, 8)

    def terms_of(params, tile_pairs):
        def tile(v, t, e):
            return adapter.apply({"params": params}, v, t, e)

        return map_pairs(tile, images, texts, noise, tile_pairs=tile_pairs)

    def total(params, tile_pairs):
        return sum(jnp.mean(term) for term in terms_of(params, tile_pairs))

    for a, b in zip(terms_of(params, 5), terms_of(params, 10_000), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6)
    gradients = jax.jit(jax.grad(total), static_argnums=1)
    tiled, whole = gradients(params, 24), gradients(params, 10_000)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tiled, whole)


@pytest.mark.slow
def test_sampling_z_and_sampling_the_decoded_scalar_agree_in_distribution():
    params, (images, texts) = draw_params(ADAPTER), embeddings(1, 2)
    n = 4000
    scalar = ADAPTER.apply({"params": params}, jax.random.key(0), images, texts, n, method="sample")[:, 0]
    post = ADAPTER.apply({"params": params}, images, texts, method="posterior")
    rng = np.random.default_rng(0)
    component = rng.choice(K, (n, 1, 2), p=softmax(np.asarray(post.mixture_logits, np.float64)))
    one_hot = np.eye(K, dtype=np.float32)[component]
    normal = rng.normal(size=(n, 1, 2, K, D)).astype(np.float32)
    z = mixture.mix(jnp.asarray(one_hot), post.mean + jnp.exp(post.log_var / 2) * normal)
    latent = ADAPTER.apply({"params": params}, z, method="decode")[:, 0]
    for j in range(2):
        assert ks_2samp(scalar[:, j], latent[:, j]).pvalue > 1e-3
    # The test can fail: another pair's draws do.
    assert ks_2samp(scalar[:, 0], latent[:, 1]).pvalue < 1e-6


@pytest.mark.slow
def test_a_decoder_with_a_hidden_layer_draws_z():
    adapter = change(decoder_width=6)
    params, (images, texts) = draw_params(adapter), embeddings(2, 3)
    draws = adapter.apply({"params": params}, jax.random.key(0), images, texts, 64, method="sample")
    assert draws.shape == (64, 2, 3)
    assert np.all(np.std(draws, axis=0) > 1e-3)


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.slow
def test_gradients_against_finite_differences(sigmoid):
    adapter = change(sigmoid=sigmoid)
    with jax.enable_x64(True):
        single = (draw_params(ADAPTER, scale=0.3), *embeddings(2, 3), ADAPTER.draw_noise(jax.random.key(0), 2, 3))
        double = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), single)
        params, images, texts, noise = double

        def total(params):
            terms = adapter.apply({"params": params}, images, texts, noise)
            # The variance loss treats its error as a constant, so only its gradient in the variance is checked, below.
            return sum(jnp.sum(jnp.sin(x)) for x in (terms.score, terms.logit, terms.kl))

        def total_variance_loss(log_var_bias):
            post = adapter.apply(
                {"params": {**params, "log_var_bias": log_var_bias}}, images, texts, method="posterior"
            )
            variance = mixture.mix(jnp.ones((2, 3, K)) / K, jnp.exp(post.log_var))
            return jnp.sum(adapter.variance_loss(jnp.ones((2, 3)), variance))

        check_gradient(total, params)
        check_gradient(total_variance_loss, params["log_var_bias"])


@pytest.mark.parametrize("log_var", [-30.0, 30.0])
def test_finite_at_extreme_log_variances(log_var):
    params = draw_params(ADAPTER)
    params["log_var_kernel"] *= 0
    params["log_var_bias"] = jnp.full_like(params["log_var_bias"], log_var)
    images, texts = embeddings()
    noise = ADAPTER.draw_noise(jax.random.key(0), 4, 6)

    def total(params):
        return sum(jnp.mean(term) for term in ADAPTER.apply({"params": params}, images, texts, noise))

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    scores = ADAPTER.apply({"params": params}, method="scorer").score_tile(images, texts)
    assert np.isfinite(scores.uncertainty).all()


def count(model):
    shapes = jax.eval_shape(lambda key: model.init(key, method="scorer"), jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))


def test_parameter_counts():
    paper = change(dim=1024, width=1024, components=2)
    assert count(paper) == 5 * (1024**2 + 1024) + 1024 + 1 + 2 == 5_249_027
    assert count(change(dim=1024, width=1024, components=1)) == 3 * (1024**2 + 1024) + 1024 + 1 + 1
    deterministic = DeterministicAdapter(dim=1024, width=1024, embeddings="unit", initial_logit=0.0)
    assert count(deterministic) == 1024**2 + 2 * 1024 + 1
    assert count(CosineModel(0.0)) == 2
    assert count(CosineModel(None)) == 1


def test_training_starts_at_the_base_rate():
    adapter = change(initial_logit=-4.0)
    params = adapter.init(jax.random.key(0), method="scorer")["params"]
    assert params["decoder_bias"] == -4
