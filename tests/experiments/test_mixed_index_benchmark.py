"""The benchmark of the mixed index runs, and its systems agree."""

import argparse

import pytest

from experiments.benchmarks import mixed_index


@pytest.mark.slow
def test_all_systems_are_measured(monkeypatch):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    monkeypatch.setattr(mixed_index, "CHUNK", 100)
    options = argparse.Namespace(documents=300, dim=64, k=5, repeats=1, seed=0)
    systems = (mixed_index.SYSTEMS[0], mixed_index.FLAT, mixed_index.QUANTIZED)
    rows, columns = mixed_index.table([mixed_index.measure(options, system) for system in systems])
    assert [len(row) for row in rows] == [len(columns)] * 3
    assert all(row[-1] > 0.9 for row in rows)  # share of the results that float32 finds as well
