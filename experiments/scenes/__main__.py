"""VACSR and its baselines on scenes, evaluated against the known truth.

`python -m experiments.scenes` trains and prints the table of one seed. `--towers=scratch` and `--towers=pretrained`
give the tables of the README here: three noise levels, three seeds. On the validation split, `--silences` tries each
option where the paper is silent, `--ablations` the paper's ablations, `--sweep` each weight of the loss, K and N_h.
Finished runs are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from experiments.scenes import pretrained
from experiments.scenes.runs import METHODS, MORE_METHODS, Task, finished, matched_steps, run_all, share_compilations

NOISE = (0.0, 0.2, 0.5)
SEEDS = (0, 1, 2)

# Alternatives to the defaults where the paper is silent.
DEFAULT = {"default": {}}
SILENCES = {
    "raw embeddings": {"adapter.embeddings": "raw"},
    "decoder with a hidden layer": {"adapter.decoder_width": 64},
    "reconstruction: mean": {"loss.reduction": "mean"},
    "hard negative: largest loss": {"loss.hard": "loss"},
    "Gumbel: straight-through": {"adapter.hard_gumbel": True},
    "positives: diagonal": {"data.positives": "diagonal"},
    "first logit: 0": {"adapter.base_rate_bias": False},
}
# The paper's ablations, and the row it lacks (method deterministic).
ABLATIONS = {
    "no KL": {"loss.kl": 0.0},
    "no variance losses": {"loss.positive": 0.0, "loss.negative": 0.0},
    "no sigmoid in the variance losses": {"adapter.sigmoid": False},
    "one component": {"adapter.components": 1},
    "two hard negatives": {"loss.hard_negatives": 2},
}

# Sensitivity: one number of the loss at a time, the others at the paper's values.
SWEPT = {
    "w_kl": ("loss.kl", 5e-4, (0.0, 5e-5, 5e-3, 5e-2)),
    "w_recon": ("loss.recon", 1.0, (0.1, 10.0)),
    "w_pos": ("loss.positive", 1.0, (0.0, 0.1, 10.0)),
    "w_neg": ("loss.negative", 1.0, (0.0, 0.1, 10.0)),
    "K": ("adapter.components", 2, (1, 4, 8)),
    "N_h": ("loss.hard_negatives", 1, (2, 4, 8)),
}  # name: field, the paper's value, other values
SWEEP = {f"{name} = {x:g}": {field: x} for name, (field, _, values) in SWEPT.items() for x in values}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.scenes", description=__doc__.split("\n")[0])
    parser.add_argument("--towers", choices=("scratch", "pretrained"), help="0, 20 and 50 %% noise, all methods")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=tuple(pretrained.PARTS),
        choices=pretrained.PARTS,
        help="with --towers=pretrained: train only these",
    )
    parser.add_argument("--silences", action="store_true", help="each option, three seeds, validation split")
    parser.add_argument("--ablations", action="store_true", help="each ablation, three seeds, validation split")
    parser.add_argument("--sweep", action="store_true", help="each number of the loss, validation split")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds, but from scratch")
    parser.add_argument("--methods", nargs="+", default=METHODS + MORE_METHODS, help="from scratch: train only these")
    parser.add_argument("--out", default="runs/experiments/scenes", help="folder of runs and results")
    parser.add_argument(
        "--table", action="store_true", help="with --towers: print the table of finished runs, without training"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of runs at a time; with more than 1, each has one CPU thread"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=NUMBER",
        help="set a config field in every run, e.g. train.steps=600",
    )
    options = parser.parse_args()
    out = Path(options.out)
    if options.jobs > 1:  # one thread each; must be set before jax is imported, here or in the workers
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    common = {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)}
    if options.towers == "pretrained":
        share_compilations(out)
        seeds = range(options.seeds)
        for seed in () if options.table else seeds:
            pretrained.evaluate_zero_shot(out, seed)
            run_all(pretrained.tasks(options.parts, seed, common), out, options.jobs, pretrained.measure)
        print(pretrained.tables(out, seeds), pretrained.draw_curves(out, seeds), sep="\n\n")
    elif options.towers == "scratch":
        if not options.table:
            run_all(full_tasks(out, common, options.methods), out, options.jobs)
        print(full_tables(finished(out)))
    elif options.silences or options.ablations or options.sweep:
        chosen = ((options.silences, SILENCES), (options.ablations, ABLATIONS), (options.sweep, SWEEP))
        rows = DEFAULT | {name: fields for wanted, table in chosen if wanted for name, fields in table.items()}
        seeds = range(options.seeds)
        results = run_all(option_tasks(rows, common, seeds), out, options.jobs)
        print(option_table(rows, results, seeds))
        if options.sweep:
            print(draw_sweep(results, seeds, out / "sweep.png"))
    else:
        tasks = [Task(f"quick-{method}", {"method": method, **common}) for method in METHODS]
        print(quick_table(run_all(tasks, out, options.jobs)))


def full_tasks(out: Path, common: dict, methods: tuple[str, ...]) -> list[Task]:
    """Runs with matched steps, then each baseline for as long as VACSR takes, by step times measured side by side."""
    grid = [(noise, seed) for seed in SEEDS for noise in NOISE]

    def task(method, noise, seed, match, **fields):
        name = f"{match}-{method}-noise{noise}-seed{seed}"
        return Task(name, {"method": method, "data.noise": noise, "seed": seed, **common, **fields})

    tasks = [task(method, noise, seed, "steps") for noise, seed in grid for method in methods]
    matched = [method for method in METHODS if method != "vacsr" and method in methods]
    steps = matched_steps(out, common) if matched else {}
    for noise, seed in sorted(grid):
        tasks += [task(method, noise, seed, "compute", **{"train.steps": steps[method]}) for method in matched]
    return tasks


def option_tasks(rows: dict[str, dict], common: dict, seeds: range) -> list[Task]:
    return [Task(option_name(name, seed), {"seed": seed, **common, **rows[name]}) for seed in seeds for name in rows]


def option_name(name: str, seed: int) -> str:
    return f"option-{name.replace(' ', '_').replace(':', '')}-seed{seed}"


def mean_and_error(values: list[float | None]):
    """Returns (mean, standard error) over seeds, or None if the metric does not exist."""
    import numpy as np

    if any(value is None for value in values):
        return None
    if len(values) == 1:
        return values[0]
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def quick_table(results: dict[str, dict]) -> str:
    from vacsr_jax.report.run_report import HEADLINES, metric_rows
    from vacsr_jax.report.tables import format_table

    columns = {"untrained": results["quick-vacsr"]["untrained"]}
    columns |= {method: results[f"quick-{method}"]["test"] for method in METHODS}
    rows = metric_rows(columns, HEADLINES)
    rows.append(["training, seconds", None, *(round(results[f"quick-{method}"]["seconds"]) for method in METHODS)])
    return format_table(rows, ["metric", *columns])


def full_tables(results: dict[str, dict]) -> str:
    from vacsr_jax.report.tables import format_table

    def cell(match, method, noise, metric, split="test"):
        names = [f"{match}-{method}-noise{noise}-seed{seed}" for seed in SEEDS]
        if any(name not in results for name in names):
            return "not run"
        runs = [results[name] for name in names]
        return mean_and_error([run[split].get(metric) if split else run[metric] for run in runs])

    rows = [("steps", method) for method in METHODS + MORE_METHODS]
    rows += [("compute", method) for method in METHODS if method != "vacsr"]
    by_noise = [
        [f"{method} ({match})", *(cell(match, method, noise, "true/mAP@R") for noise in NOISE)]
        + [cell(match, method, noise, "true/i2t/mAP@R") for noise in NOISE]
        + [cell(match, method, noise, "true/t2i/mAP@R") for noise in NOISE]
        for match, method in rows
    ]
    names = [f"{kind} {noise:.0%}" for kind in ("mAP@R", "i2t", "t2i") for noise in NOISE]
    metrics = ("true/nDCG", "true/Spearman", "i2t/R@1", "t2i/R@1", "rsum", "ECE", "true/ECE")
    aurocs = [f"true/AUROC {what} top/{how}" for what in ("score", "uncertainty") for how in ("pooled", "within")]
    bins = ("i2t/uncertainty-R@1", "t2i/uncertainty-R@1")
    others = [
        [
            f"{method} ({match})",
            *(cell(match, method, 0.0, metric) for metric in (*metrics, *aurocs, *bins)),
            cell(match, method, 0.0, "seconds", None),
        ]
        for match, method in rows
    ]
    other_names = [name.removeprefix("true/") for name in (*metrics, *aurocs, *bins)]
    other_names[other_names.index("ECE", other_names.index("ECE") + 1)] = "ECE, truth"
    return (
        format_table(by_noise, ["test, known truth", *names], markdown=True)
        + "\n\n"
        + format_table(others, ["clean", *other_names, "seconds"], markdown=True)
    )


def draw_sweep(results: dict[str, dict], seeds: range, file: Path) -> Path:
    """Draws the mAP@R of the sweep."""
    from experiments.scenes.figures import sensitivity

    def runs(name):
        return [results[option_name(name, seed)]["validation"]["true/mAP@R"] for seed in seeds]

    points = {name: {x: runs(f"{name} = {x:g}") for x in values} for name, (_, _, values) in SWEPT.items()}
    sensitivity(points, {name: default for name, (_, default, _) in SWEPT.items()}, runs("default"), file)
    return file


def option_table(rows: dict[str, dict], results: dict[str, dict], seeds: range) -> str:
    from vacsr_jax.report.tables import format_table

    metrics = ("true/mAP@R", "true/i2t/mAP@R", "true/t2i/mAP@R", "rsum")
    metrics = (*metrics, *(f"true/AUROC uncertainty top/{how}" for how in ("pooled", "within")))
    lines = []
    for name in rows:
        runs = [results[option_name(name, seed)]["validation"] for seed in seeds]
        lines.append([name, *(mean_and_error([run.get(metric) for run in runs]) for metric in metrics)])
    return format_table(lines, ["validation, clean", *(m.removeprefix("true/") for m in metrics)], markdown=True)


if __name__ == "__main__":
    main()
