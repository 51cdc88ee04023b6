"""A match probability freed of who got labelled, on scenes from pixels: `python -m experiments.beyond`.

`--quick` runs one seed of every method, clean and at 50 % noise, in under five minutes on two CPU cores. Otherwise the
runs of --tables (default: all) are trained, and the tables printed. Finished runs are kept under --out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from experiments.beyond.figures import draw
from experiments.beyond.ideas import IDEAS
from experiments.beyond.measure import measure
from experiments.scenes.__main__ import mean_and_error
from experiments.scenes.runs import Task, finished, run_all, share_compilations

METHODS = ("sigmoid", "infonce", "deterministic", "vacsr", "propensity")
NOISE = (0.0, 0.2, 0.5)
QUICK = {"train.steps": 900, "checkpoint.every": 900}
PROPENSITY = {"method": "propensity"}
CONJUNCTION = PROPENSITY | {"propensity.match": "conjunction"}
ROWS = {method: {"method": method} for method in (*METHODS[:-1], "conjunction", "propensity")}
ROWS |= {"propensity, conjunction": CONJUNCTION}

# The other tables change one setting each.
SWITCHES = {
    "propensity": {},
    "no plateau": {"propensity.plateau": False},
    "no text propensity": {"propensity.text": False},
    "no image propensity": {"propensity.image": False},
    "no propensities": {"propensity.text": False, "propensity.image": False},
    "no noise floor": {"propensity.noise_floor": False},
    "conjunction": {"propensity.match": "conjunction"},
    "conjunction, no image propensity": {"propensity.match": "conjunction", "propensity.image": False},
}
MATCHES = {
    "cosine": PROPENSITY,
    "conjunction": CONJUNCTION,
    "deterministic adapter": PROPENSITY | {"propensity.match": "deterministic"},
    "VACSR": PROPENSITY | {"propensity.match": "vacsr"},
}
SETTINGS = {
    "default": {},
    "facts .6, .3, .1": {"data.facts": [0.6, 0.3, 0.1]},
    "facts .1, .3, .6": {"data.facts": [0.1, 0.3, 0.6]},
    "batch 256": {"train.batch_size": 256},
    "d 256": {"model.pooling": "gpo", "model.embedding_dim": 256},
    "1,500 steps": {"train.steps": 1500},
    "6,000 steps": {"train.steps": 6000},
}
TABLES = ("methods", "controls", "switches", "matches", "settings", "ideas")
METRICS = {
    "mAP@R": "true/mAP@R",
    "i2t": "true/i2t/mAP@R",
    "t2i": "true/t2i/mAP@R",
    "R@1 i2t": "i2t/R@1",
    "AUROC pooled": "true/AUROC score top/pooled",
    "AUROC within": "true/AUROC score top/within",
    "ECE, truth": "true/ECE",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.beyond", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, clean and 50 %% noise, 900 steps")
    parser.add_argument("--out", help="with --quick a JSON file, otherwise the folder of runs and results")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="tables to train and print")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--table", action="store_true", help="print the tables of finished runs, without training")
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of runs at a time; with more than 1, each has one CPU thread"
    )
    options = parser.parse_args()
    if options.jobs > 1:  # one thread each; must be set before jax starts, here or in the workers
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if options.quick:
        quick(Path(options.out or "beyond.json"), options.jobs)
        return
    out, seeds = Path(options.out or "runs/experiments/beyond"), range(options.seeds)
    share_compilations(out)
    for name in options.tables:
        rows = table_rows(name)
        if not options.table:
            run_all([task(row, seed) for seed in seeds for row in rows], out, options.jobs, measure)
        lines = control_lines if name == "controls" else metric_lines
        split = "validation" if name == "ideas" else "test"
        print(f"\n{name}, {split} split\n\n{lines(rows, finished(out), seeds, split)}", flush=True)
    for row in (Row("propensity", PROPENSITY), Row("conjunction", CONJUNCTION)):
        runs = {noise: [task(row._replace(noise=noise), seed).name for seed in seeds] for noise in NOISE}
        print(*draw(out, runs, f"{row.name}.png"), sep="\n")


def quick(out: Path, jobs: int) -> None:
    """Writes {method: {"0": {metric: value}, "0.5": ...}} to `out`, and the runs beside it."""
    from vacsr_jax.atomic_files import to_json, write_text

    folder = out.with_suffix("") / "runs"
    share_compilations(folder)
    tasks = [
        Task(f"{method}-noise{noise:g}", {"method": method, "data.noise": noise, **QUICK})
        for method in METHODS
        for noise in (0.0, 0.5)
    ]
    results = run_all(tasks, folder, jobs)
    numbers = {}
    for item in tasks:
        method, noise = item.name.split("-noise")
        numbers.setdefault(method, {})[noise] = quick_numbers(results[item.name]["test"])
    write_text(out, to_json(numbers))
    print(json.dumps(numbers, indent=1))


def quick_numbers(test: dict) -> dict[str, float]:
    names = {
        "map_at_r": "true/mAP@R",
        "i2t_map_at_r": "true/i2t/mAP@R",
        "t2i_map_at_r": "true/t2i/mAP@R",
        "i2t_r1": "i2t/R@1",
        "auroc_pooled": "true/AUROC score top/pooled",
        "auroc_within": "true/AUROC score top/within",
    }
    return {short: test[name] for short, name in names.items()}


class Row(NamedTuple):
    """A row of a table: name, config fields, share of wrong labels, and a change of the training as in `Task`."""

    name: str
    fields: dict
    noise: float = 0.0
    change: Callable = nullcontext


def table_rows(table: str) -> list[Row]:
    if table == "methods":
        return [Row(name, fields, noise) for noise in NOISE for name, fields in ROWS.items()]
    if table == "controls":
        names = ("sigmoid", "propensity", "propensity, conjunction")
        return [Row(name, ROWS[name], noise) for noise in (0.0, 0.5) for name in names]
    if table == "settings":
        names = ("sigmoid", "propensity", "propensity, conjunction")
        return [Row(f"{changed}: {name}", ROWS[name] | SETTINGS[changed]) for changed in SETTINGS for name in names]
    if table == "ideas":
        short = PROPENSITY | {"train.steps": 1500}
        return [Row(name, short | fields, 0.0, change) for name, (fields, change) in IDEAS.items()]
    rows = MATCHES if table == "matches" else {name: PROPENSITY | fields for name, fields in SWITCHES.items()}
    return [Row(name, fields, noise) for noise in (0.0, 0.5) for name, fields in rows.items()]


def task(row: Row, seed: int) -> Task:
    """Returns the run of a row. Its name states what it changes, so that tables share runs."""
    changes = [str(value) if field == "method" else f"{field}={value}" for field, value in row.fields.items()]
    changes += [] if row.change is nullcontext else [row.name]
    name = re.sub(r"[ \[\]/*']", "", "-".join([*changes, f"noise{row.noise}", f"seed{seed}"]))
    return Task(name, {**row.fields, "data.noise": row.noise, "seed": seed}, row.change)


def found_runs(row: Row, results: dict[str, dict], seeds: range) -> list[dict]:
    names = [task(row, seed).name for seed in seeds]
    return [results[name] for name in names if name in results]


def metric_lines(rows: list[Row], results: dict[str, dict], seeds: range, split: str) -> str:
    """Formats means and standard errors over the finished seeds; "not run" if there are none."""
    from vacsr_jax.report.tables import format_table

    lines = []
    for row in rows:
        runs = found_runs(row, results, seeds)
        line = [row.name, f"{row.noise:.0%}", len(runs)]
        if not runs:
            lines.append([*line, *["not run"] * (len(METRICS) + 1)])
            continue
        values = [[run[split].get(metric) for run in runs] for metric in METRICS.values()]
        values.append([run.get("noise_rate") for run in runs])
        lines.append([*line, *(mean_and_error(x) for x in values)])
    return format_table(lines, ["", "noise", "seeds", *METRICS, "nu"], markdown=True)


def control_lines(rows: list[Row], results: dict[str, dict], seeds: range, split: str) -> str:
    """Formats what each control, one number per text added to the match score, gains i2t against the truth."""
    from vacsr_jax.report.tables import format_table

    lines = []
    for row in rows:
        runs = [run["corrections"] for run in found_runs(row, results, seeds) if "corrections" in run]
        line = [row.name, f"{row.noise:.0%}", len(runs)]
        if not runs:
            lines.append([*line, *["not run"] * 3])
            continue
        for name in runs[0]:
            values = [[run[name][metric] for run in runs] for metric in ("i2t", "auroc")]
            lines.append([*line, name, *(mean_and_error(x) for x in values)])
    names = ["scores of", "noise", "seeds", "plus", "mAP@R i2t", "AUROC pooled"]
    return format_table(lines, names, markdown=True)


if __name__ == "__main__":
    main()
