"""Bulk scoring against float64 numpy written from the equations; ranking against a sort of the whole matrix."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.small_models import gelu, variational_adapter
from vacsr_jax.pair import adapter as adapter_module
from vacsr_jax.pair.adapter import AdapterScorer, score_tile_fused
from vacsr_jax.pair.cosine import CosineModel, CosineScorer
from vacsr_jax.scoring import pairs as pair_scoring

N, M, D, K = 13, 29, 96, 2
ADAPTER = variational_adapter(D, D, components=K, initial_logit=-4.0)


def unit_embeddings(n, seed, d=D):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) * d**0.5).astype(np.float32)


IMAGES, TEXTS = unit_embeddings(N, 1), unit_embeddings(M, 2)


def adapter_scorer(seed=0, **fields):
    adapter = dataclasses.replace(ADAPTER, **fields)
    params = jax.jit(functools.partial(adapter.init, method="scorer"))(jax.random.key(seed))["params"]
    params = params | {"mixture_logits": jnp.array([0.3, -0.4]), "log_var_bias": params["log_var_bias"] - 1}
    return adapter.apply({"params": params}, method="scorer")


SCORER = adapter_scorer()


def float64_scores(scorer, images=IMAGES, texts=TEXTS):
    f = {name: None if x is None else np.asarray(x, np.float64) for name, x in dataclasses.asdict(scorer).items()}
    hidden = gelu((images[:, None].astype(np.float64) * texts) @ f["trunk_kernel"] + f["trunk_bias"])
    out = hidden @ f["readout"] + f["readout_bias"]
    logit = out[..., 0] if f["decoder"] is None else gelu(out) @ f["decoder"] + f["decoder_bias"]
    log_var = (hidden @ f["log_var_kernel"] + f["log_var_bias"]).reshape(*logit.shape, K, -1)
    return logit, np.sqrt(np.einsum("nmkd,k->nmd", np.exp(log_var), f["weights"])).mean(-1)


@pytest.mark.parametrize(
    ("d", "decoder_width"),
    [(256, 0), pytest.param(256, 24, marks=pytest.mark.slow), pytest.param(1024, 0, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-3)])
def test_scores_agree_with_float64(dtype, tolerance, d, decoder_width):
    # Relative to the largest score: a logit passes through zero, where no precision is enough.
    scorer = adapter_scorer(dim=d, width=d, decoder_width=decoder_width)
    images, texts = unit_embeddings(N, 1, d), unit_embeddings(M, 2, d)
    logit, spread = float64_scores(scorer, images, texts)
    found = pair_scoring.score_all(scorer.in_precision(dtype), images, texts)
    assert found.logit.dtype == found.uncertainty.dtype == np.float32
    error = np.abs(found.logit - logit).max() / np.abs(logit).max()
    assert error < tolerance
    np.testing.assert_allclose(found.uncertainty, spread, rtol=tolerance)
    assert error > 1e-5 or dtype == jnp.float32, "not half precision"


@pytest.mark.parametrize(
    "tile_pairs", [pytest.param(1, marks=pytest.mark.slow), 7, pytest.param(40, marks=pytest.mark.slow), 10**6]
)
def test_tiles_change_nothing(tile_pairs):
    whole = SCORER.score_tile(jnp.asarray(IMAGES), jnp.asarray(TEXTS))
    found = pair_scoring.score_all(SCORER, IMAGES, TEXTS, tile_pairs=tile_pairs)
    best = pair_scoring.top_k(SCORER, IMAGES, TEXTS, 5, tile_pairs=tile_pairs)
    np.testing.assert_allclose(found.logit, whole.logit, rtol=1e-5)
    np.testing.assert_allclose(found.uncertainty, whole.uncertainty, rtol=1e-5)
    index = np.argsort(-np.asarray(whole.logit), axis=1)[:, :5]
    np.testing.assert_array_equal(best.index, index)
    np.testing.assert_allclose(best.score, np.take_along_axis(found.logit, index, 1), rtol=1e-5)
    np.testing.assert_allclose(best.uncertainty, np.take_along_axis(found.uncertainty, index, 1), rtol=1e-5)


@pytest.mark.parametrize("block_pairs", [1, 3 * M])
def test_blocks_of_rows_change_nothing(monkeypatch, block_pairs):
    monkeypatch.setattr(pair_scoring, "BLOCK_PAIRS", block_pairs)
    np.testing.assert_allclose(
        pair_scoring.score_all(SCORER, IMAGES, TEXTS).logit, float64_scores(SCORER)[0], rtol=1e-5
    )


def test_of_equal_scores_the_first_is_best_and_k_may_be_all():
    texts = np.concatenate([TEXTS[:4]] * 3)
    best = pair_scoring.top_k(SCORER, IMAGES, texts, 12, tile_pairs=5)
    scores = pair_scoring.score_all(SCORER, IMAGES, texts, tile_pairs=5).logit
    np.testing.assert_array_equal(best.index, np.argsort(-scores, axis=1, kind="stable"))
    assert (np.sort(best.index[0]) == np.arange(12)).all()


def test_ranking_holds_no_matrix_of_all_pairs():
    # 64 x 16,384 scores are 4.2 MB, and their hidden layers 400 MB.
    images, texts = (jax.ShapeDtypeStruct((n, D), jnp.float32) for n in (64, 16_384))
    lowered = pair_scoring._best_rows.lower(SCORER, images, texts, k=5, tile_pairs=1024, score=AdapterScorer.score_tile)
    texts_again = 16_384 * D * 4
    assert lowered.compile().memory_analysis().temp_size_in_bytes - texts_again < 3e6


def test_two_stages():
    cosine = CosineModel(None).apply({"params": {"log_scale": jnp.float32(0)}}, method="scorer")
    first = pair_scoring.top_k(cosine, IMAGES, TEXTS, 8)
    assert first.uncertainty is None
    np.testing.assert_array_equal(first.index, np.argsort(-(IMAGES @ TEXTS.T), axis=1)[:, :8])
    second = pair_scoring.rerank(SCORER, IMAGES, TEXTS, first.index)
    scores = pair_scoring.score_all(SCORER, IMAGES, TEXTS)
    assert (np.diff(second.score, axis=1) <= 0).all()
    np.testing.assert_array_equal(np.sort(second.index), np.sort(first.index))
    for mine, whole in ((second.score, scores.logit), (second.uncertainty, scores.uncertainty)):
        np.testing.assert_allclose(mine, np.take_along_axis(whole, second.index, 1), rtol=1e-5)
    # With every text a candidate, two stages are one.
    everything = np.tile(np.arange(M), (N, 1))
    both = (pair_scoring.rerank(SCORER, IMAGES, TEXTS, everything), pair_scoring.top_k(SCORER, IMAGES, TEXTS, M))
    np.testing.assert_array_equal(both[0].index, both[1].index)


def test_few_candidates_bring_only_their_own_texts_to_the_device(monkeypatch):
    candidates = np.random.default_rng(0).integers(M, size=(5, 3))
    sizes, score = [], pair_scoring._score_candidates
    monkeypatch.setattr(
        pair_scoring, "_score_candidates", lambda s, v, t, c, **o: sizes.append(len(t)) or score(s, v, t, c, **o)
    )
    found = pair_scoring.score_candidates(SCORER, IMAGES[:5], TEXTS, candidates)
    there = pair_scoring.score_candidates(SCORER, IMAGES[:5], jnp.asarray(TEXTS), candidates)
    assert sizes == [15, M]
    whole = pair_scoring.score_all(SCORER, IMAGES[:5], TEXTS)
    for a, b, all_pairs in zip(found[:2], there[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, np.take_along_axis(all_pairs, candidates, axis=1), rtol=1e-5)


def test_candidates_of_a_cosine_score():
    cosine = CosineScorer(jnp.float32(3), jnp.float32(-1))
    found = pair_scoring.score_candidates(cosine, IMAGES, TEXTS, np.full((N, 1), 4))
    np.testing.assert_allclose(found.logit[:, 0], 3 * IMAGES @ TEXTS[4] - 1, rtol=1e-4)


def test_the_tile_follows_the_device():
    wide = jax.eval_shape(lambda: adapter_scorer(dim=1024, width=1024).in_precision(jnp.bfloat16))
    cpu = types.SimpleNamespace(platform="cpu")
    gpu = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 80 << 30})
    assert 256 <= pair_scoring.pairs_per_tile(wide, IMAGES, TEXTS, cpu) <= 1024
    assert pair_scoring.pairs_per_tile(wide, IMAGES, TEXTS, cpu) * 16 * 1024 <= pair_scoring.CACHE
    assert 2**17 <= pair_scoring.pairs_per_tile(wide, IMAGES, TEXTS, gpu) <= 2**19
    assert pair_scoring.pairs_per_tile(wide, IMAGES, TEXTS) == pair_scoring.pairs_per_tile(
        wide, IMAGES, TEXTS, jax.devices()[0]
    )


@pytest.mark.parametrize(
    ("candidates", "message"),
    [(np.zeros((2, 3), int), "expected .13, k."), (np.full((N, 1), M), "expected 0 to 28")],
)
def test_candidates_that_do_not_fit_are_errors(candidates, message):
    with pytest.raises(ValueError, match=message):
        pair_scoring.score_candidates(SCORER, IMAGES, TEXTS, candidates)


@pytest.mark.parametrize("k", [0, M + 1])
def test_a_k_outside_the_texts_is_an_error(k):
    with pytest.raises(ValueError, match="expected 1 to 29"):
        pair_scoring.top_k(SCORER, IMAGES, TEXTS, k)


@pytest.mark.slow
def test_a_gpu_uses_the_kernel_only_where_it_fits_runs_and_agrees(monkeypatch):
    fitting = adapter_scorer(dim=64, width=128)
    assert fitting.tile_function() is AdapterScorer.score_tile  # this is a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    adapter_module.kernel_agrees.cache_clear()
    with pytest.warns(UserWarning, match="does not run here, so XLA's form is used"):
        assert fitting.tile_function() is AdapterScorer.score_tile  # no GPU after all
    fused = functools.partial(score_tile_fused, interpret=True)
    monkeypatch.setattr(adapter_module, "score_tile_fused", fused)
    adapter_module.kernel_agrees.cache_clear()
    assert fitting.tile_function() is fused
    assert SCORER.tile_function() is AdapterScorer.score_tile  # d = 96
    monkeypatch.setattr(adapter_module, "score_tile_fused", lambda *x: jax.tree.map(lambda y: y + 1, fused(*x)))
    adapter_module.kernel_agrees.cache_clear()
    with pytest.warns(UserWarning, match=r"off by 1\.000"):
        assert fitting.tile_function() is AdapterScorer.score_tile
    adapter_module.kernel_agrees.cache_clear()
