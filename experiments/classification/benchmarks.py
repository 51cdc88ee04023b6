"""The published protocols on real data: base-to-novel over data sets, trained depth and epochs, and zero-shot CLIP.

`python -m experiments.classification.benchmarks --root=DATA --datasets eurosat dtd` trains each setting with each seed.
`--zero-shot` evaluates the pretrained model with CoOp's prompts, which checks loader and towers to the last digit. The
setting of a data set is chosen by the accuracy on its base validation images, never by a test image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.classification.runs import METHODS, Task, cell, read_result, result_file, run_all
from vacsr_jax.data.classification.benchmarks import BENCHMARKS
from vacsr_jax.metrics.classification import average_over_datasets, over_seeds
from vacsr_jax.report.tables import format_table

ELEVEN = tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.kind != "index-folders")[:11]
CONFIG = "configs/base_to_novel.py:dataset={dataset},root={root},method={method}"
HALVES = ("test_base", "test_new")


class Setting(NamedTuple):
    """How many of the first blocks of the image and text towers learn (-1: all), and for how many epochs."""

    image_blocks: int
    text_blocks: int
    epochs: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.classification.benchmarks")
    parser.add_argument("--root", required=True, help="the folder that holds all data sets")
    parser.add_argument("--datasets", nargs="+", default=list(ELEVEN))
    parser.add_argument("--method", default="vacsr", choices=METHODS)
    parser.add_argument(
        "--blocks", nargs="+", default=["0/0", "2/3", "6/6", "-1/-1"], help="image/text blocks to train"
    )
    parser.add_argument("--epochs", nargs="+", type=int, default=[5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--zero-shot", metavar="MODEL", help="evaluate this model without training")
    parser.add_argument("--out", default="runs/experiments/benchmarks", help="folder of runs and results")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a config field in every run"
    )
    options = parser.parse_args()
    out = Path(options.out)
    if options.zero_shot:
        print(zero_shot_table(evaluate_zero_shot(options.zero_shot, options.root, options.datasets, out)))
        return
    settings = [Setting(*map(int, pair.split("/")), n) for pair in options.blocks for n in options.epochs]
    fields = dict(item.split("=", 1) for item in options.set)
    grid = [(dataset, setting) for dataset in options.datasets for setting in settings]
    for seed in options.seeds:
        run_all([task(options.method, *of, seed, options.root, fields) for of in grid], out)
    print(novel_table(read_all(out, options.method, grid, options.seeds)))


def task(method: str, dataset: str, setting: Setting, seed: int, root: str, fields: Mapping[str, Any]) -> Task:
    own = {
        "seed": seed,
        "optim.image_blocks": setting.image_blocks,
        "optim.text_blocks": setting.text_blocks,
        "train.epochs": setting.epochs,
        "data.tests": ("validation", *HALVES) if dataset != "imagenet" else HALVES,
    }
    config = CONFIG.format(dataset=dataset, root=root, method=method)
    return Task(task_name(method, dataset, setting, seed), config, {**own, **fields})


def task_name(method: str, dataset: str, setting: Setting, seed: int) -> str:
    return f"{dataset}-{method}-blocks{setting.image_blocks}_{setting.text_blocks}-epochs{setting.epochs}-seed{seed}"


def read_all(out: Path, method: str, grid: Iterable[tuple[str, Setting]], seeds: list[int]) -> dict:
    """Returns data set -> setting -> results of the seeds."""
    found: dict[str, dict[Setting, list[dict]]] = {}
    for dataset, setting in grid:
        runs = [read_result(out, task_name(method, dataset, setting, seed)) for seed in seeds]
        found.setdefault(dataset, {})[setting] = [run["trained"] for run in runs if run]
    return found


def choose(runs: Mapping[Setting, list[dict]]) -> Setting:
    """Returns the setting with the best mean accuracy on base validation images; the first one if there are none."""

    def score(setting: Setting) -> float:
        values = [run["validation"]["accuracy"] for run in runs[setting] if "validation" in run]
        return over_seeds(values).mean if values else 0.0

    return max(runs, key=score)


def novel_table(results: Mapping[str, Mapping[Setting, list[dict]]]) -> str:
    """Returns rows of base, new and their harmonic mean (of the seeds' means), and the average in both conventions."""
    rows, means = [], {}
    for dataset, runs in results.items():
        setting = choose(runs)
        halves = [[run[half]["accuracy"] for run in runs[setting]] for half in HALVES]
        means[dataset] = tuple(100 * over_seeds(values).mean for values in halves)
        own = average_over_datasets({dataset: means[dataset]}).hm_of_means
        depth = f"{setting.image_blocks}/{setting.text_blocks}, {setting.epochs}"
        rows.append([dataset, depth, *(cell(values) for values in halves), own])
    average = average_over_datasets(means)
    rows.append(["mean (HM of means)", None, average.base, average.new, average.hm_of_means])
    rows.append(["mean (mean of HMs)", None, average.base, average.new, average.mean_of_hms])
    return format_table(rows, ["data set", "blocks, epochs", "base", "new", "HM"], markdown=True, digits=2)


def evaluate_zero_shot(model: str, root: str, datasets: list[str], out: Path) -> dict[str, dict]:
    """Evaluates base and new accuracy of a model without training. Finished data sets are not repeated."""
    from vacsr_jax import load
    from vacsr_jax.data.classification.source import open_classes
    from vacsr_jax.evaluation.loaded_model import evaluate_classes

    loaded, results = None, {}
    for dataset in datasets:
        results[dataset] = read_result(out, f"zero-shot-{dataset}")
        if results[dataset] is None:
            loaded = loaded or load(model)
            sources = {half: open_classes(dataset, root, half) for half in HALVES}
            results[dataset] = {
                half: evaluate_classes(loaded, source, "per-dataset") for half, source in sources.items()
            }
            out.mkdir(parents=True, exist_ok=True)
            result_file(out, f"zero-shot-{dataset}").write_text(json.dumps(results[dataset], indent=2) + "\n")
    return results


def zero_shot_table(results: Mapping[str, dict]) -> str:
    return novel_table({dataset: {Setting(0, 0, 0): [result]} for dataset, result in results.items()})


if __name__ == "__main__":
    main()
