"""The benchmark on small shapes: its baselines compute what the library does, and its numbers have their names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from experiments.benchmarks import baselines, pair_scoring, timing, two_stages
from vacsr_jax.pair.cosine import CosineScorer
from vacsr_jax.pair.vacsr_objective import vacsr_objective
from vacsr_jax.scoring.pairs import score_all, top_k

ASKED_FOR = {
    "gemm_peak_gflops",
    "scores_bf16_pairs_per_s",
    "scores_bf16_share_of_peak",
    "scores_with_uncertainty_bf16_pairs_per_s",
    "straightforward_f32_pairs_per_s",
    "torch_f32_pairs_per_s",
    "train_step_b8_s",
    "train_step_b8_straightforward_s",
    "train_step_b8_temp_bytes",
}


@pytest.fixture(scope="module")
def small():
    adapter, params = pair_scoring.adapter_of(16)
    return adapter, params, pair_scoring.embeddings(5, 16, 1), pair_scoring.embeddings(6, 16, 2)


def test_the_straightforward_scores_are_the_librarys(small):
    adapter, params, images, texts = small
    logit, uncertainty = baselines.scores(params, jnp.asarray(images), jnp.asarray(texts), 2)
    found = score_all(adapter.apply({"params": params}, method="scorer"), images, texts)
    np.testing.assert_allclose(logit, found.logit, rtol=1e-5)
    np.testing.assert_allclose(uncertainty, found.uncertainty, rtol=1e-5)


def test_the_pytorch_module_scores_the_same(small):
    pytest.importorskip("torch")
    adapter, params, images, texts = small
    found = score_all(adapter.apply({"params": params}, method="scorer"), images, texts)
    np.testing.assert_allclose(baselines.torch_scorer(params, images, texts, 2, "float32")(), found.logit, rtol=1e-4)


@pytest.mark.slow
def test_the_straightforward_loss_has_the_same_expectation(small):
    adapter, params, images, texts = small
    params = params | {"log_var_bias": params["log_var_bias"] + 2}  # noise that can be seen
    inputs = params, jnp.asarray(images), jnp.asarray(texts[:5]), jnp.eye(5, dtype=bool), jnp.ones((5, 5), bool)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))

    def ours(key):
        return vacsr_objective(adapter, *inputs, key, mesh=mesh, tile_pairs=99, dtype=jnp.float32, **pair_scoring.LOSS)[
            0
        ]

    keys = jax.random.split(jax.random.key(0), 400)
    mine = jax.lax.map(ours, keys)
    theirs = jax.jit(jax.vmap(lambda key: baselines.loss(adapter, *inputs, key, **pair_scoring.LOSS)))(keys)
    error = np.hypot(np.std(mine), np.std(theirs)) / len(keys) ** 0.5
    assert abs(np.mean(mine) - np.mean(theirs)) < 4 * error < 0.1 * np.mean(mine)


@pytest.mark.slow
def test_the_command_writes_every_number_and_a_plot(tmp_path, monkeypatch, capsys):
    for name, value in {"D": 32, "IMAGES": 4, "TEXTS": 64}.items():
        monkeypatch.setattr(pair_scoring, name, value)
    monkeypatch.setattr(pair_scoring, "peaks", lambda rounds: {"f32": 1.0, "bf16": 2.0})
    monkeypatch.setattr(pair_scoring, "growth", lambda rounds: {"4 x 64": 1.0})
    monkeypatch.setattr(pair_scoring, "copy_gigabytes_per_second", lambda: 1.0)
    out = tmp_path / "pair_scoring.json"
    pair_scoring.main([f"--out={out}", "--rounds=1", "--batches=8"])
    numbers = json.loads(out.read_text())
    assert set(numbers) >= ASKED_FOR
    assert out.with_suffix(".png").stat().st_size > 1000
    assert "gemm_peak_gflops" in capsys.readouterr().out


def test_the_best_of_rounds_is_the_least():
    calls = []
    found = timing.best_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert "".join(calls) == "ababab"
    assert set(found) == {"a", "b"}
    assert timing.machine()


def test_two_stages_meet_the_full_ranking_when_everything_is_a_candidate(monkeypatch, tmp_path, small):
    adapter, params, images, texts = small
    monkeypatch.setattr(two_stages, "KS", (2, 5))
    labels = np.eye(5, 6, dtype=bool)
    folded = adapter.apply({"params": params}, method="scorer")
    rows = two_stages.curve(folded, images, texts, labels, labels, rounds=1)
    assert all(len(row) == len(two_stages.COLUMNS) for row in rows)
    full, kept = rows[0], {(row[0], row[1]): row[4] for row in rows}
    assert kept["cosine", 2] <= kept["cosine", 5] == pytest.approx(5 / 6, abs=0.1)
    assert 0 <= full[2] <= 1
    two_stages.plot(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_linear_stage_is_the_score_where_the_score_is_linear():
    d = 96
    adapter, params = pair_scoring.adapter_of(d)
    whole = adapter.apply({"params": params}, method="scorer").for_ranking()
    images, texts = pair_scoring.embeddings(13, d, 1), pair_scoring.embeddings(29, d, 2)
    # A trunk whose units all sit far on the open side of the gelu is linear: score = s W f + constant.
    scorer = whole.replace(trunk_bias=jnp.full(d, 50.0))
    weights = two_stages.linear_stage(scorer, images, texts)
    np.testing.assert_allclose(weights, scorer.trunk_kernel @ scorer.readout[:, 0], rtol=1e-3, atol=1e-5)
    plain = CosineScorer(jnp.float32(1), jnp.float32(0))
    first = top_k(plain, images * weights, texts, 3).index
    np.testing.assert_array_equal(first, top_k(scorer, images, texts, 3).index)
    # And it ranks a real adapter's pairs far better than the cosine does.
    scores = score_all(whole, images, texts).logit
    linear = (images * two_stages.linear_stage(whole, images, texts)) @ texts.T
    assert np.corrcoef(scores.ravel(), linear.ravel())[0, 1] > 0.5
