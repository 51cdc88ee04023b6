"""The numbers of the search with token matching: first stages by hand, and databases that keep several vectors."""

import numpy as np
import pytest

from experiments.tokens import search
from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.pair.tokens import Claims, Places

N, M, P, L, D = 6, 5, 3, 4, 8


@pytest.fixture
def items():
    rng = np.random.default_rng(0)
    vectors = [unit_rows(rng.normal(size=(n, D)).astype(np.float32))[0] for n in (N * P, M * L)]
    images = Places(vectors[0].reshape(N, P, D), np.ones((N, P), np.float32))
    weights = rng.uniform(0.1, 1, (M, L)).astype(np.float32)
    weights[:, -1] = 0  # a pad
    images.weights[0, 2] = 0
    return images, Claims(vectors[1].reshape(M, L, D), weights, rng.normal(size=(M, L)).astype(np.float32))


def by_hand(images, texts):
    found = np.zeros((N, M))
    for i in range(N):
        for j in range(M):
            for t, w in zip(texts.vectors[j], texts.weights[j], strict=True):
                used = images.vectors[i][images.weights[i] > 0].astype(np.float64)
                found[i, j] += w * max(used @ t)
    return found


def test_max_sim_is_that_of_the_formula_and_of_the_databases(items, monkeypatch):
    monkeypatch.setattr(search, "TOP", 3)
    np.testing.assert_allclose(search.max_sim(*items), by_hand(*items), atol=1e-5)
    assert {name: x["agreement"] for name, x in search.engines(*items).items()} == {
        "Qdrant, local mode": 1.0,
        "LanceDB": 1.0,
    }


def test_recalls_count_the_top_ten_among_the_candidates():
    full = np.arange(100.0)[None]
    first = full.copy()
    first[0, 99] = 49.5  # the best is in the middle of the first stage's ranking
    found = search.recalls(first, full)
    assert found == {
        "kept at 10": 0.9,
        "kept at 20": 0.9,
        "kept at 50": 1.0,
        "kept at 100": 1,
        "kept at 200": 1,
        search.NEEDED: 50,
    }


def test_the_fitted_stage_finds_a_bilinear_form_of_low_rank(monkeypatch):
    monkeypatch.setattr(search, "RIDGE", 1e-9)
    monkeypatch.setattr(search, "RANK", 2)
    monkeypatch.setattr(search, "LEAST", -np.inf)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(50, 5))
    form = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5))
    left, right = search.fit_stage(x, y, x @ form @ y.T)
    np.testing.assert_allclose(left @ right.T, form, atol=1e-6)


def test_bytes_are_those_of_what_is_no_padding(items):
    images, texts = items
    assert search.bytes_of(images, 4, 0) == pytest.approx((17 / 6) * 4 * D + 4)
    assert search.bytes_of(texts, 1, 2) == pytest.approx(3 * (D + 2 + 4) + 2)
