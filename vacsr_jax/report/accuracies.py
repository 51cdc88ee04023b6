"""The printed table of a classifier's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vacsr_jax.evaluation.classification import summary
from vacsr_jax.report.tables import format_table


def accuracy_table(columns: Mapping[str, Mapping[str, dict[str, Any]]]) -> str:
    """Accuracies in per cent: a row for each test set, with its label space and prompt, then the means.

    `columns` maps a model to its results, which map a test set to what `evaluation.classification.result_of` gives.
    """
    first = next(iter(columns.values()))
    rows = []
    for test, of in first.items():
        accuracies = (100 * results[test]["accuracy"] for results in columns.values())
        rows.append([test, *accuracies, of["images"], of["label_space"]["classes"], of["template"]])
    means = [summary(dict(results)) for results in columns.values()]
    for name in ("harmonic_mean", "target_mean"):
        if name in means[0]:
            rows.append([name.replace("_", " "), *(100 * found[name] for found in means), None, None, None])
    return format_table(rows, ["accuracy, %", *columns, "images", "classes", "prompt"], digits=2)
