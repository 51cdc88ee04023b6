"""The GPU kernel, interpreted on the CPU, against float64 numpy and the plain form. It also lowers to Triton."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_models import gelu
from vacsr_jax.ops.fused_scores import fits, fused_scores
from vacsr_jax.pair.adapter import AdapterScorer, score_tile_fused

D, H, K, N, M = 128, 256, 2, 13, 18


def adapter_scorer(spread=True):
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    scorer = AdapterScorer(normal(D, H, scale=D**-0.5), normal(H), normal(H, 1, scale=H**-0.5), normal(1) - 4)
    if not spread:
        return scorer
    weights = {"log_var_kernel": normal(H, K * D, scale=H**-0.5), "log_var_bias": normal(K * D)}
    return scorer.replace(**weights, weights=jnp.array([0.3, 0.7]))


def embeddings(n, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, D)), jnp.float32)


def float64(scorer, images, texts):
    f = {name: np.asarray(x, np.float64) for name, x in dataclasses.asdict(scorer).items() if x is not None}
    products = np.asarray(images, np.float64)[:, None] * np.asarray(texts, np.float64)
    hidden = gelu(products @ f["trunk_kernel"] + f["trunk_bias"])
    log_var = (hidden @ f["log_var_kernel"] + f["log_var_bias"]).reshape(N, M, K, D)
    variance = np.einsum("nmkd,k->nmd", np.exp(log_var), f["weights"])
    return (hidden @ f["readout"] + f["readout_bias"])[..., 0], np.sqrt(variance).mean(-1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), pytest.param(jnp.bfloat16, 2e-3, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_kernel_is_the_plain_form(dtype, tolerance):
    # 2e-3: the few dimensions here average away less rounding than 1,024 would. The plain form has the same error.
    scorer, images, texts = adapter_scorer(), embeddings(N, 1), embeddings(M, 2)
    logit, spread = float64(scorer, images, texts)
    scorer = scorer.in_precision(dtype)
    for scores in (score_tile_fused(scorer, images, texts, interpret=True), scorer.score_tile(images, texts)):
        assert np.abs(scores.logit - logit).max() < tolerance * np.abs(logit).max()
        np.testing.assert_allclose(scores.uncertainty, spread, rtol=tolerance)


def test_scores_alone_are_the_same():
    scorer, images, texts = adapter_scorer(spread=False), embeddings(N, 1), embeddings(M, 2)
    found = score_tile_fused(scorer, images, texts, interpret=True)
    assert found.uncertainty is None
    np.testing.assert_allclose(found.logit, scorer.score_tile(images, texts).logit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [False, True])
def test_it_lowers_for_a_gpu(spread):
    # Without a GPU this shows only that the kernel is valid Triton, not that it runs or is fast.
    scorer = adapter_scorer(spread).in_precision(jnp.bfloat16)
    run = jax.jit(functools.partial(score_tile_fused, scorer))
    text = run.trace(embeddings(N, 1), embeddings(M, 2)).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text
    assert f"tensor<{N}x{M}x" not in text.replace(f"tensor<{N}x{M}xf32>", "")  # nothing of size pairs but results


def test_sizes_that_do_not_fit_are_errors():
    assert fits(64, 128)
    assert not fits(96, 128)
    assert not fits(64, 64)
    with pytest.raises(ValueError, match="got 96, 128; expected multiples of 64 and 128"):
        fused_scores(jnp.ones((2, 96)), jnp.ones((2, 96)), jnp.ones((96, 128)), jnp.ones(128), jnp.ones(128))
