"""Token matching on scenes from pixels: `python -m experiments.tokens`.

The runs of --tables (default: all) are trained, one after the other, and the tables printed. Finished runs are kept
under --out and not repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from experiments.beyond.__main__ import CONJUNCTION, PROPENSITY, Row, found_runs, task
from experiments.scenes.__main__ import mean_and_error
from experiments.scenes.pretrained import FIELDS as FROM_TOWERS
from experiments.scenes.runs import Task, finished, make_config, result_file, run_all, share_compilations, step_seconds
from experiments.tokens.figures import draw_curves, draw_explained
from experiments.tokens.measure import measure, measure_curve, measure_hard, measure_reference, watched

NOISE = (0.0, 0.2, 0.5)
SHORT = {"train.steps": 1200}
TOKENS = PROPENSITY | {"propensity.match": "tokens"}
PAIRS = TOKENS | {"tokens.places": "pairs"}
MAIN = {"tokens, cells": TOKENS, "tokens, pairs": PAIRS}
# Each changes one thing of the model with cells, after 1,200 steps.
VARIANT = "experiments.tokens.variants:"
PARTS = {
    "cells": {},
    "mean of the claims": {"propensity.match": VARIANT + "MEAN"},
    "sum of the claims": {"propensity.match": VARIANT + "SUM"},
    "no propensities": {"propensity.text": False, "propensity.image": False},
    "no plateau": {"propensity.plateau": False},
    "no noise floor": {"propensity.noise_floor": False},
    "sigmoid loss alone": {"method": "tokens"},
    "InfoNCE alone": {"method": VARIANT + "INFONCE"},
    "mean, InfoNCE alone (FILIP)": {"method": VARIANT + "FILIP", "tokens.gate": False, "tokens.token_bias": False},
    "pairs": {"tokens.places": "pairs"},
    "12 pooled regions": {"propensity.match": VARIANT + "REGIONS"},
    "a cross-attention layer": {"propensity.match": VARIANT + "CROSS"},
    "the pooled image alone": {"tokens.places": "whole"},
    "one bias": {"tokens.token_bias": False},
    "no gate": {"tokens.gate": False},
    "d 16": {"tokens.dim": 16},
    "d 64": {"tokens.dim": 64},
    "VACSR's latent on each claim": {"propensity.match": VARIANT + "LATENT"},
}
TIMED = ("claims", "cells", "pairs", "12 pooled regions", "a cross-attention layer", "VACSR's latent on each claim")
CONTROLS = ("mean of the claims", "sum of the claims", "no propensities", "sigmoid loss alone")  # with pairs as well
# What scenes can be besides those of the main table, and the models of the table `hard`, after 1,200 steps.
HARD = {
    "default": {},
    "objects cross patches": {"data.jitter": 4.0, "model.towers": "tiny/8"},
    "objects cross patches, 3,000 steps": {"data.jitter": 4.0, "model.towers": "tiny/8", "train.steps": 3000},
    "1,000 images": {"data.train_size": 1000},
    "3,000 images": {"data.train_size": 3000},
    "at most two facts": {"data.facts": [0.4, 0.6, 0.0]},
    "combinations held out": {"data.held_out": True},
    "a quarter negated": {"data.absent": 0.25},
}
MODELS = {"tokens": TOKENS, "claims": CONJUNCTION, "sigmoid": {"method": "sigmoid"}}
# From the towers of the shipped model, on this many training images; frozen: they stay as they are.
PRETRAINED = {
    "12,000 images": {},
    "12,000 images, frozen": {"optim.frozen": ["towers/*"]},
    "3,000 images": {"data.train_size": 3000},
    "1,000 images": {"data.train_size": 1000},
}
SEEDS = {"main": 5, "parts": 3, "facts": 5, "hard": 3, "pretrained": 3, "curves": 1}
# Tables that measure something else, and keep their results in their own folders.
APART = ("facts", "hard", "pretrained", "curves")
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
HARD_COLUMNS = {
    **{name: COLUMNS[name] for name in ("mAP@R", "i2t", "t2i", "within own 20", "R@1 i2t", "ECE, truth")},
    "t2i, three facts": ("t2i", "long"),
    "t2i, objects moved": ("t2i", "moved"),
    "t2i, held out": ("t2i", "novel"),
    "t2i, others": ("t2i", "base"),
    **{kind: ("facts", kind) for kind in ("exists", "absent", "count", "side", "relation")},
}
PRETRAINED_COLUMNS = {name: path for name, path in HARD_COLUMNS.items() if path[0] == "test"}
TABLES: dict[str, tuple[Callable | None, dict]] = {
    "main": (measure, COLUMNS),
    "parts": (measure, COLUMNS),
    # The models of the table `main`, measured again as in the table `hard`.
    "facts": (measure_hard, {name: path for name, path in HARD_COLUMNS.items() if path[0] != "test"}),
    "hard": (measure_hard, HARD_COLUMNS),
    "pretrained": (None, PRETRAINED_COLUMNS),
    "curves": (measure_curve, {name: COLUMNS[name] for name in ("mAP@R", "within own 20")}),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tokens", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/experiments/tokens", help="folder of runs and results")
    parser.add_argument("--tables", nargs="+", default=tuple(TABLES), choices=TABLES, help="tables to train and print")
    parser.add_argument("--seeds", type=int, help="number of seeds; otherwise each table's own")
    parser.add_argument("--table", action="store_true", help="print the tables of finished runs, without training")
    parser.add_argument("--times", action="store_true", help="print what a training step takes, and nothing else")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at a time, each with one CPU thread")
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # before jax starts, here or in the workers
    out = Path(options.out)
    share_compilations(out)
    if options.times:
        print(step_times(out))
        return
    for name in options.tables:
        rows, seeds = table_rows(name), range(options.seeds or SEEDS[name])
        measure, columns = TABLES[name]
        folder = out / name if name in APART else out
        for seed in () if options.table else seeds:
            if name not in APART:
                run_all([reference(seed)], out, options.jobs, measure_reference)
            run = measure_saved if name == "facts" else run_all
            run([task(row, seed)._replace(untrained=False) for row in rows], folder, options.jobs, measure)
        print(f"\n{name}, test split\n\n{lines(rows, finished(folder), seeds, columns)}", flush=True)
    curves = {row.name: found_runs(row, finished(out / "curves"), range(1)) for row in table_rows("curves")}
    model = out / "measured" / task(Row("tokens", TOKENS), 0).name
    print(
        *draw_curves({name: runs[0] for name, runs in curves.items() if runs}, out),
        *draw_explained(model, out),
        sep="\n",
    )


def table_rows(table: str) -> list[Row]:
    if table in ("main", "facts"):
        rows = [Row(name, fields, noise) for noise in NOISE for name, fields in MAIN.items()]
        return [Row("claims", CONJUNCTION), *rows]
    if table == "curves":
        return [Row(name, fields, change=watched) for name, fields in MODELS.items()]
    if table in ("hard", "pretrained"):
        common, settings = (SHORT, HARD) if table == "hard" else (FROM_TOWERS, PRETRAINED)
        asked = [(of, fields, 0.0) for of, fields in settings.items()]
        asked += [("12,000 images", {}, NOISE[-1])] if table == "pretrained" else []
        return [
            Row(f"{of}: {name}", model | common | fields, noise)
            for of, fields, noise in asked
            for name, model in MODELS.items()
        ]
    rows = [Row(name, TOKENS | SHORT | fields) for name, fields in PARTS.items()]
    rows += [Row(f"pairs, {name}", PAIRS | SHORT | PARTS[name]) for name in CONTROLS]
    rows += [Row("claims", CONJUNCTION | SHORT)]
    for name, fields in {"claims": CONJUNCTION, "cells": TOKENS}.items():
        rows += [Row(f"{name}, 3,000 steps", fields), Row(f"{name}, 6,000 steps", fields | {"train.steps": 6000})]
    return rows


def step_times(out: Path) -> str:
    """Formats the median time of a training step, taking turns on one core, relative to the claims'."""
    from vacsr_jax.report.tables import format_table

    configs = {row.name: make_config(row.fields) for row in table_rows("parts") if row.name in TIMED}
    seconds = step_seconds(configs, out, rounds=15)
    found = [[name, seconds[name] / seconds["claims"]] for name in TIMED]
    return format_table(found, ["", "time of a step"], markdown=True)


def measure_saved(tasks: list[Task], folder: Path, jobs: int, measure: Callable) -> None:
    """Measures the models that the runs of the table `main` have saved, and not those that it has not run yet."""
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.pretrained import load

    for name, fields, *_ in tasks:
        saved = folder.parent / "measured" / name
        if saved.exists() and not result_file(folder, name).exists():
            write_text(result_file(folder, name), to_json(measure(load(saved), make_config(fields), saved)))


def reference(seed: int):
    """Returns the run whose best pairs every model of a seed is asked about: the claims' on clean labels."""
    return task(Row("claims", CONJUNCTION), seed)


def lines(rows: list[Row], results: dict[str, dict], seeds: range, columns: dict[str, tuple]) -> str:
    """Formats means and standard errors over the finished seeds; "not run" if there are none."""
    from vacsr_jax.report.tables import format_table

    found = []
    for row in rows:
        runs = found_runs(row, results, seeds)
        line = [row.name, f"{row.noise:.0%}", len(runs)]
        cells = [mean_and_error([value(run, path) for run in runs]) if runs else "not run" for path in columns.values()]
        found.append([*line, *cells])
    return format_table(found, ["", "noise", "seeds", *columns], markdown=True)


def value(run: dict, path: tuple[str, ...]):
    """A number of a result; None if the run has no such number."""
    for name in path:
        run = run.get(name) if run else None
    return run


if __name__ == "__main__":
    main()
