"""Token matching on scenes from pixels: `python -m experiments.tokens`.

The runs of --tables (default: all) are trained, one after the other, and the tables printed. Finished runs are kept
under --out and not repeated.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from experiments.beyond.__main__ import CONJUNCTION, PROPENSITY, Row, found_runs, task
from experiments.scenes.__main__ import mean_and_error
from experiments.scenes.runs import finished, run_all, share_compilations
from experiments.tokens.measure import measure, measure_reference

NOISE = (0.0, 0.2, 0.5)
SHORT = {"train.steps": 1200}
TOKENS = PROPENSITY | {"propensity.match": "tokens"}
PAIRS = TOKENS | {"tokens.places": "pairs"}
MAIN = {"tokens, cells": TOKENS, "tokens, pairs": PAIRS}
# Each changes one thing of the model with pairs.
PARTS = {
    "pairs": {},
    "cells": {"tokens.places": "cells"},
    "the pooled image alone": {"tokens.places": "whole"},
    "one bias": {"tokens.token_bias": False},
    "no gate": {"tokens.gate": False},
    "d 16": {"tokens.dim": 16},
    "d 64": {"tokens.dim": 64},
    "no propensities": {"propensity.text": False, "propensity.image": False},
    "no noise floor": {"propensity.noise_floor": False},
    "no plateau": {"propensity.plateau": False},
    "sigmoid loss alone": {"method": "tokens"},
}
TABLES = ("main", "parts")
SEEDS = {"main": 5, "parts": 3}
COLUMNS = {
    "mAP@R": ("test", "true/mAP@R"),
    "i2t": ("test", "true/i2t/mAP@R"),
    "t2i": ("test", "true/t2i/mAP@R"),
    "relation": ("t2i", "relation"),
    "side": ("t2i", "side"),
    "other": ("t2i", "other"),
    "within own 20": ("test", "true/AUROC score top/within"),
    "within common 20": ("common", "within"),
    "R@1 i2t": ("test", "i2t/R@1"),
    "ECE, truth": ("test", "true/ECE"),
    "p, labelled": ("probability", "labelled"),
    "p, unlabelled match": ("probability", "unlabelled match"),
    "nu": ("noise_rate",),
    "seconds": ("seconds",),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tokens", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/experiments/tokens", help="folder of runs and results")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="tables to train and print")
    parser.add_argument("--seeds", type=int, help="number of seeds; otherwise each table's own")
    parser.add_argument("--table", action="store_true", help="print the tables of finished runs, without training")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at a time, each with one CPU thread")
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # before jax starts, here or in the workers
    out = Path(options.out)
    share_compilations(out)
    for name in options.tables:
        rows, seeds = table_rows(name), range(options.seeds or SEEDS[name])
        for seed in () if options.table else seeds:
            run_all([reference(seed)], out, options.jobs, measure_reference)
            run_all([task(row, seed) for row in rows], out, options.jobs, measure)
        print(f"\n{name}, test split\n\n{lines(rows, finished(out), seeds)}", flush=True)


def table_rows(table: str) -> list[Row]:
    if table == "main":
        rows = [Row(name, fields, noise) for noise in NOISE for name, fields in MAIN.items()]
        return [Row("claims", CONJUNCTION), *rows]
    return [Row(name, PAIRS | SHORT | fields) for name, fields in PARTS.items()]


def reference(seed: int):
    """Returns the run whose best pairs every model of a seed is asked about: the claims' on clean labels."""
    return task(Row("claims", CONJUNCTION), seed)


def lines(rows: list[Row], results: dict[str, dict], seeds: range) -> str:
    """Formats means and standard errors over the finished seeds; "not run" if there are none."""
    from vacsr_jax.report.tables import format_table

    found = []
    for row in rows:
        runs = found_runs(row, results, seeds)
        line = [row.name, f"{row.noise:.0%}", len(runs)]
        cells = [mean_and_error([value(run, path) for run in runs]) if runs else "not run" for path in COLUMNS.values()]
        found.append([*line, *cells])
    return format_table(found, ["", "noise", "seeds", *COLUMNS], markdown=True)


def value(run: dict, path: tuple[str, ...]):
    """A number of a result; None if the run has no such number."""
    for name in path:
        run = run.get(name) if run else None
    return run


if __name__ == "__main__":
    main()
