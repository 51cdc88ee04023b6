"""Token matching's tables: rows share runs by name, and the variants are what they say they are."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.scenes.runs import make_config
from experiments.tokens import __main__ as tables
from experiments.tokens import variants
from experiments.tokens.measure import fact_aurocs, named_combinations
from vacsr_jax.data.scenes import make_scenes
from vacsr_jax.pair.tokens import Claims, Places, TokensScorer
from vacsr_jax.towers.base import Encoded

RNG = np.random.default_rng(0)


def test_rows_of_one_name_are_one_run():
    names = {}
    for table in tables.TABLES:
        for row in tables.table_rows(table):
            found = pickle.loads(pickle.dumps(tables.task(row, 0)))  # as another process gets it
            assert names.setdefault(found.name, found.fields) == found.fields
    assert tables.reference(0).name in names


def test_saved_models_are_measured_once(tmp_path, monkeypatch):
    tasks = [tables.task(row, 0) for row in tables.table_rows("facts")[:2]]
    (tmp_path / "measured" / tasks[0].name).mkdir(parents=True)
    monkeypatch.setattr("vacsr_jax.pretrained.load", lambda folder: folder.name)
    seen = []
    for _ in range(2):
        tables.measure_saved(tasks, tmp_path / "facts", 1, lambda *given: seen.append(given[0]) or {"noise_rate": 0.1})
    assert seen == [tasks[0].name]
    found = tables.finished(tmp_path / "facts")
    table = tables.lines(tables.table_rows("facts")[:2], found, range(1), {"nu": ("noise_rate",)})
    shown = [[cell.strip() for cell in line.split("|")[3:5]] for line in table.splitlines()[2:]]
    assert shown == [["1", "0.100"], ["0", "not run"]]


@pytest.fixture(scope="module")
def items():
    """Three images of four places, the last absent, and two texts of three tokens, the last with a pad."""

    def unit(*shape):
        x = RNG.normal(size=shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)

    images = Places(unit(3, 4, 8), jnp.array([[1.0, 1, 1, 0]] * 3))
    texts = Claims(unit(2, 3, 8), jnp.array([[1.0, 0.5, 0.7], [0.9, 0.2, 0]]), jnp.array([[-3.0, -1, 0], [0, -2, 5]]))
    return images, texts


def test_the_mean_and_the_sum_by_hand(items):
    images, texts = items
    scorer = (jnp.float32(7.0), jnp.array([1.0, 0.0]))
    v, t = np.float64(images.vectors[:, :3]), np.float64(texts.vectors)
    z = np.log(np.exp(7 * np.einsum("rpd,cld->rclp", v, t)).sum(-1)) + np.float64(texts.biases)
    total, weight = (z * np.float64(texts.weights)).sum(-1), np.float64(texts.weights).sum(-1)
    np.testing.assert_allclose(variants.SumScorer(*scorer).score_tile(images, texts).logit, total, rtol=1e-5)
    np.testing.assert_allclose(variants.MeanScorer(*scorer).score_tile(images, texts).logit, total / weight, rtol=1e-5)


def test_a_cross_attention_layer_by_hand(items):
    images, texts = items
    query, value, own = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 8, 8), (2, 8, 5), (8, 5)))
    readout = jnp.asarray(RNG.normal(size=5), jnp.float32)
    shared = (jnp.float32(7.0), jnp.array([1.0, 0.0]), None)
    found = variants.CrossScorer(*shared, query, value, own, readout).claim_logits(images, texts)
    plain = TokensScorer(*shared).claim_logits(images, texts)
    r, token, c = 1, 2, 0
    v, t = images.vectors[r, :3], texts.vectors[c, token]
    hidden = t @ own + sum(jax.nn.softmax(v @ (t @ q)) @ v @ w for q, w in zip(query, value, strict=True))
    np.testing.assert_allclose(
        found[r, token, c] - plain[r, token, c], jax.nn.gelu(hidden) @ readout, rtol=1e-3, atol=1e-4
    )


def test_what_a_score_knows_of_each_kind_of_fact():
    """The truth as a score knows all; a score of the other facts alone knows nothing."""
    source = make_scenes("test", 60, seed=0, facts_per_caption=(0.25, 0.4, 0.35), absent=0.25)
    found = fact_aurocs(source.relevance(), source)
    assert set(found) == {"exists", "absent", "count", "side", "relation", "background"}
    assert set(found.values()) == {1.0}
    assert set(fact_aurocs(np.zeros((60, 300)), source).values()) == {0.5}
    red, circle = 0, 0  # the first words of their kinds
    captions = [caption for own in source.captions for caption in own]
    index = next(i for i, caption in enumerate(captions) if "a red circle" in caption)
    assert (red, circle) in named_combinations(source.facts[index])


@pytest.mark.slow
def test_a_latent_scores_in_training_as_in_inference(items):
    """Whatever is drawn, the terms' score is what the scorer gives, and a draw of a claim is its own."""
    images, texts = items
    model = variants.LATENT.build(make_config({"tokens.dim": 8}), 0, 0.0)
    noise = model.draw_noise(jax.random.key(0), 3, 2)
    assert noise.normal.shape == (3, 2, variants.MOST_CLAIMS)
    params = model.init(jax.random.key(1), images, texts, noise, method="__call__")
    terms = model.apply(params, images, texts, noise)
    scorer = model.apply(params, method="scorer")
    np.testing.assert_allclose(terms.score, scorer.score_tile(images, texts).logit, rtol=1e-4, atol=1e-5)
    assert np.abs(terms.logit - terms.score).max() > 1e-3
    last = noise._replace(normal=noise.normal.at[:, :, 2].add(1.0))  # of the third token, a pad of the second text
    changed = np.abs(model.apply(params, images, texts, last).logit - terms.logit).max(axis=0)
    assert changed[0] > 1e-4
    assert changed[1] < 1e-6


@pytest.mark.slow
def test_pooled_regions_look_at_valid_cells_alone():
    model = variants.REGIONS.build(make_config({"tokens.dim": 8}), 0, 0.0)
    tokens = jnp.asarray(RNG.normal(size=(1, 4, 6)), jnp.float32)
    valid = jnp.array([[True, True, True, False]])
    encoded = Encoded(tokens.mean(axis=1), tokens, valid)
    params = model.init(jax.random.key(0), encoded, method="prepare_image")
    places = model.apply(params, encoded, method="prepare_image")
    assert places.weights.tolist() == [[1, 1, 1, 1, 0, *[1] * variants.REGIONS_COUNT]]
    other = encoded._replace(tokens=tokens.at[0, 3].add(9.0))
    changed = jnp.abs(model.apply(params, other, method="prepare_image").vectors - places.vectors).max(axis=-1)[0]
    assert (changed > 1e-6).tolist() == [i == 4 for i in range(5 + variants.REGIONS_COUNT)]


def test_names_of_runs_are_names_of_folders():
    for table in tables.TABLES:
        for row in tables.table_rows(table):
            assert not set(tables.task(row, 0).name) & set("/*?[] '")
