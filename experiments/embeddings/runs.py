"""Trains methods on files of embeddings, evaluates them on the test split, and keeps each result in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.evaluation.retrieval import Evaluation, all_metrics
from vacsr_jax.pretrained import load_workdir
from vacsr_jax.report.tables import format_table
from vacsr_jax.training.loop import train

Metrics = dict[str, float]
SMALL = {"adapter.width": 128, "train.batch_size": 64}  # methods that work on every pair of a batch
METHODS: dict[str, dict] = {
    "sigmoid": {"method": "sigmoid"},
    "deterministic": {"method": "deterministic", **SMALL},
    "vacsr": {"method": "vacsr", **SMALL},
    "propensity": {"method": "propensity"},
    "conjunction": {"method": "propensity", "propensity.match": "conjunction"},
}
COSINE = "cosine"


def results_of(
    file: Path,
    folder: Path,
    fields: Mapping[str, object],
    evaluate: Callable[[Evaluation], Metrics],
) -> dict[str, Metrics]:
    """The metrics of the cosine that a run starts from ("untrained") and of its best checkpoint ("trained").

    Results are read from `folder`, where an earlier call of the same fields has written them.
    """
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    config = load_config(f"configs/embeddings.py:path={file}", [])
    config.update_from_flattened_dict(dict(fields))
    run, _ = train(config, folder)
    best = load_workdir(folder, "best")
    test = open_split(config, "test")
    found = {
        "untrained": evaluate(evaluate_captions(best_with(best, run.params), test)),
        "trained": evaluate(evaluate_captions(best, test)),
        "step": {"best": float(best.step or 0)},
    }
    write_text(result, to_json(found))
    return found


def best_with(model, params):
    import dataclasses

    return dataclasses.replace(model, params=params)


def label_metrics(evaluation: Evaluation) -> Metrics:
    """R@1, 5, 10 both ways, ECE, and the AUROC of the labelled pairs against all others."""
    metrics = all_metrics(evaluation.scores, evaluation.probability, evaluation.labels, evaluation.relevance)
    score = evaluation.scores.by_match()
    return metrics | {"AUROC": auroc(score[evaluation.labels], score[~evaluation.labels])}


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The share of pairs (a positive, a negative) in which the positive scores higher; ties count half."""
    both = np.concatenate([positive, negative])
    order = np.argsort(both, kind="stable")
    ranks = np.empty(len(both))
    ranks[order] = np.arange(1, len(both) + 1)
    _, inverse, count = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.bincount(inverse, ranks) / count)[inverse]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def table(rows: Mapping[str, list[Metrics]], names: Mapping[str, str]) -> str:
    """Mean and standard error over the runs of each row; `names` are metrics and the columns' titles."""
    lines = []
    for row, runs in rows.items():
        cells = []
        for name in names:
            values = np.array([run[name] for run in runs if name in run])
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.3f} ± {error:.3f}" if len(values) else "–")
        lines.append([row, *cells])
    return format_table(lines, ["", *names.values()])
