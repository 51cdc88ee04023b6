"""The benchmark of the mixed index runs, and its systems agree."""

import argparse

import numpy as np
import pytest

from experiments.benchmarks import mixed_index


@pytest.fixture
def options(monkeypatch):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    monkeypatch.setattr(mixed_index, "CHUNK", 100)
    monkeypatch.setattr(mixed_index, "TWINS", 50)
    return argparse.Namespace(documents=300, many=2000, dim=64, many_dim=64, k=5, repeats=1, seed=0, threads=1)


def measured(options, system):
    result, ask = mixed_index.build(options, system)
    return result | {f"batch {batch}": [ask(batch)] for batch in mixed_index.BATCHES}


@pytest.mark.slow
def test_all_systems_are_measured(options):
    exact = [measured(options, system) for system in mixed_index.EXACT]
    assert [x["own"] for x in exact[:2]] == [1, 1]
    assert exact[0]["ids"] == exact[1]["ids"]
    assert mixed_index.ratio(exact) > 0
    many = [measured(options, system) for system in mixed_index.APPROXIMATE]
    assert all(x["recall"] > 0.5 and x["documents"] == 2000 for x in many)
    rows, columns = mixed_index.table(exact + many)
    assert [len(row) for row in rows] == [len(columns)] * 5


def test_the_truth_is_that_of_all_documents_at_once(options):
    chunks = list(mixed_index.draw(options, 500, True, seed=0, chunk=120))
    x = np.concatenate(chunks)
    truth, n = mixed_index.Truth(x[:3], 5), 0
    for chunk in chunks:
        truth.see(chunk, [str(i) for i in range(n, n + len(chunk))], "image")
        n += len(chunk)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    best = np.argsort(-(unit[:3] @ unit.T), axis=1)[:, :5].astype(str)
    assert (truth.best["image"][1] == best).all()
    assert truth.recall({"image": best.astype(object)}) == 1


def test_twins_stand_at_their_cosine():
    x = np.random.default_rng(0).normal(size=(20, 64))
    cosines = np.sum(mixed_index.twins(x) * x, axis=1) / np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(cosines, mixed_index.TWIN_COSINE, atol=1e-6)
