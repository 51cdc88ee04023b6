"""A match probability freed of who got labelled, on scenes from pixels: `python -m experiments.beyond`.

`--quick` is one seed of every method, clean and at 50 % noise, in under five minutes of two CPU cores. Without it the
tables named by --tables are trained (all of them, by default) and printed. Finished runs are kept under --out.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from experiments.beyond.figures import draw
from experiments.beyond.measure import measure
from experiments.scenes.__main__ import mean_and_error
from experiments.scenes.runs import Task, finished, run_all

METHODS = ("sigmoid", "infonce", "deterministic", "vacsr", "propensity")
NOISE = (0.0, 0.2, 0.5)
QUICK = {"train.steps": 900, "checkpoint.every": 900}
PROPENSITY = {"method": "propensity"}

# The other tables change one thing.
SWITCHES = {
    "propensity": {},
    "no plateau": {"propensity.plateau": False},
    "no text propensity": {"propensity.text": False},
    "no image propensity": {"propensity.image": False},
    "no propensities": {"propensity.text": False, "propensity.image": False},
    "no noise floor": {"propensity.noise_floor": False},
}
MATCHES = {
    "cosine": {},
    "deterministic adapter": {"propensity.match": "deterministic"},
    "VACSR": {"propensity.match": "vacsr"},
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
TABLES = ("methods", "controls", "switches", "matches", "settings")
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
    parser.add_argument("--out", help="with --quick: a JSON file; else the folder of runs and results")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="what to train and print")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--table", action="store_true", help="print what is there and train nothing")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one CPU thread each if more than 1")
    options = parser.parse_args()
    if options.jobs > 1:  # one thread each; before jax is imported, here or in the workers
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if options.quick:
        quick(Path(options.out or "beyond.json"), options.jobs)
        return
    out, seeds = Path(options.out or "runs/experiments/beyond"), range(options.seeds)
    share_compilations(out)
    for name in options.tables:
        rows = table_rows(name)
        if not options.table:
            run_all(
                [task(fields, noise, seed) for seed in seeds for _, fields, noise in rows], out, options.jobs, measure
            )
        lines = control_lines if name == "controls" else metric_lines
        print(f"\n{name}\n\n{lines(rows, finished(out), seeds)}", flush=True)
    print(*draw(out, seeds), sep="\n")


def share_compilations(out: Path) -> None:
    """Runs that differ in noise alone are the same programs; workers read this too."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((out / "compiled").absolute()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def quick(out: Path, jobs: int) -> None:
    """Writes {method: {"0": {metric: value}, "0.5": ...}} to `out`, its runs beside it."""
    from vacsr_jax.files import to_json, write_text

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


def table_rows(table: str) -> list[tuple[str, dict, float]]:
    """(row, config fields, noise) of a table."""
    methods = {method: {"method": method} for method in METHODS}
    if table == "methods":
        return [(name, fields, noise) for name, fields in methods.items() for noise in NOISE]
    if table == "controls":
        return [(name, methods[name], 0.0) for name in ("sigmoid", "infonce", "propensity")]
    if table == "settings":
        pairs = [(name, method) for name in SETTINGS for method in ("sigmoid", "propensity")]
        return [(f"{name}: {method}", {"method": method} | SETTINGS[name], 0.0) for name, method in pairs]
    changed = SWITCHES if table == "switches" else MATCHES
    return [(name, PROPENSITY | fields, noise) for name, fields in changed.items() for noise in (0.0, 0.5)]


def task(fields: dict, noise: float, seed: int) -> Task:
    """A run named by what it changes, so that tables share it."""
    changes = [str(value) if field == "method" else f"{field}={value}" for field, value in fields.items()]
    name = "-".join([*changes, f"noise{noise}", f"seed{seed}"]).replace(" ", "")
    return Task(name, {**fields, "data.noise": noise, "seed": seed})


def metric_lines(rows, results: dict[str, dict], seeds: range) -> str:
    """Means and standard errors on the test split, a row for each noise; what was not run says so."""
    from vacsr_jax.report.tables import format_table

    lines = []
    for name, fields, noise in rows:
        runs = [results.get(task(fields, noise, seed).name) for seed in seeds]
        if None in runs:
            lines.append([name, f"{noise:.0%}", *["not run"] * (len(METRICS) + 1)])
            continue
        values = [[run["test"].get(metric) for run in runs] for metric in METRICS.values()]
        values.append([run["noise_rate"] for run in runs])
        lines.append([name, f"{noise:.0%}", *(mean_and_error(x) for x in values)])
    return format_table(lines, ["", "noise", *METRICS, "nu"], markdown=True)


def control_lines(rows, results: dict[str, dict], seeds: range) -> str:
    """One number for each text, added to the match score of a method: what each brings, i2t against the truth."""
    from vacsr_jax.report.tables import format_table

    lines = []
    for name, fields, noise in rows:
        runs = [results.get(task(fields, noise, seed).name) for seed in seeds]
        if None in runs:
            lines.append([name, *["not run"] * 3])
            continue
        for row in runs[0]["corrections"]:
            found = [run["corrections"][row] for run in runs]
            lines.append([name, row, *(mean_and_error([x[metric] for x in found]) for metric in ("i2t", "auroc"))])
    return format_table(lines, ["scores of", "plus", "mAP@R i2t", "AUROC pooled"], markdown=True)


if __name__ == "__main__":
    main()
