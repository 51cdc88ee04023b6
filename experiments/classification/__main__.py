"""VACSR against its baselines on small twins of the few-shot benchmarks.

`python -m experiments.classification --emoji=FOLDER` trains and prints the tables of results/twins.md: scenes and real
emoji, base-to-novel and domain generalization, every method, three seeds. Without --emoji it only runs the scenes.
Finished runs are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from experiments.classification.runs import DIVERGED, METHODS, Task, cell, read_result, run_all
from experiments.classification.twins import VENDORS, write_emoji, write_scenes
from vacsr_jax.report.tables import format_table

CONFIG = "configs/base_to_novel.py:dataset={dataset},root={root},method={method},template=a picture of {{}}"
# Tiny towers from scratch; after 400 steps every method names all base validation images of scenes.
COMMON = {
    "model.pretrained": "",
    "model.image_size": 32,
    "data.shots": 0,
    "augment.images": "none",
    "train.epochs": 0,
    "train.steps": 400,
    "train.batch_size": 64,
    "optim.image_lr": 1.0,
    "optim.text_lr": 1.0,
    "optim.warmup_steps": 100,
}
HALVES = {"base": "test_base", "new": "test_new"}
SAME_IDS = {f"{vendor}, same ids": f"{vendor}/train" for vendor in VENDORS[1:]}
NEW_IDS = {f"{vendor}, new ids": f"{vendor}/test" for vendor in VENDORS[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.classification", description=__doc__.split("\n")[0])
    parser.add_argument("--emoji", help="folder with noto, twemoji, openmoji and fluent")
    parser.add_argument("--out", default="runs/experiments/classification", help="folder of data, runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only", choices=("scenes", "emoji-novel", "emoji-domains"), help="run only this one of the three"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of finished runs, without training")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a config field in every run"
    )
    options = parser.parse_args()
    out = Path(options.out)
    fields = dict(item.split("=", 1) for item in options.set)
    names = [options.only] if options.only else ["scenes", *(["emoji-domains", "emoji-novel"] if options.emoji else [])]
    if not options.table:
        root = write_data(out, options.emoji)
        for seed in options.seeds:
            run_all([task(name, method, seed, root, fields) for name in names for method in METHODS], out)
    for name in names:
        print(f"{TITLES[name]}\n\n{table(out, name, options.seeds)}\n")


def write_data(out: Path, emoji: str | None) -> Path:
    """Draws and copies the twins' folders, unless they exist."""
    root = out / "data"
    if not (root / "scenes").exists():
        write_scenes(root / "scenes")
    if emoji and not (root / VENDORS[0]).exists():
        write_emoji(Path(emoji), root)
    return root


def task(name: str, method: str, seed: int, root: Path, fields: dict[str, Any]) -> Task:
    dataset = "scenes" if name == "scenes" else VENDORS[0]
    if name == "emoji-domains":
        own = {"data.subset": "all", "data.tests": ("test", *SAME_IDS.values(), *NEW_IDS.values())}
    else:
        own = {"data.subset": "base"}
    config = CONFIG.format(dataset=dataset, root=root, method=method)
    return Task(f"{name}-{method}-seed{seed}", config, {**COMMON, **own, "seed": seed, **fields})


TITLES = {
    "scenes": "Scenes, base-to-novel: 12 base and 12 new combinations of known colours and shapes",
    "emoji-novel": "Emoji, base-to-novel: half of the subgroups, noto",
    "emoji-domains": "Emoji, domain generalization: trained on noto",
}


def table(out: Path, name: str, seeds: list[int]) -> str:
    """Returns rows of accuracy in per cent, mean and standard error over seeds, with the untrained towers."""
    results = {method: [read_result(out, f"{name}-{method}-seed{seed}") for seed in seeds] for method in METHODS}
    rows = [["untrained", *(cell(values) for values in columns(name, results["cross_entropy"], "untrained"))]]
    for method, runs in results.items():
        rows.append([method, *(cell(values) for values in columns(name, runs, "trained"))])
    head = [*HALVES, "HM"] if name != "emoji-domains" else ["noto", *SAME_IDS, *NEW_IDS, "mean of targets"]
    return format_table(rows, ["accuracy, %", *head], markdown=True, digits=1)


def columns(name: str, runs: list[dict | None], stage: str) -> list[list[float | None]]:
    """Returns the runs' values for each column; None for a missing run."""
    tests = HALVES.values() if name != "emoji-domains" else ("test", *SAME_IDS.values(), *NEW_IDS.values())
    summary = "harmonic_mean" if name != "emoji-domains" else "target_mean"
    paths = [*((stage, test, "accuracy") for test in tests), (f"{stage}_summary", summary)]
    return [[value_at(run, path) for run in runs] for path in paths]


def value_at(run: dict | None, path: tuple[str, ...]) -> float | str | None:
    """Returns the number at a path of a result; None for a missing run, DIVERGED for a run that broke off."""
    if run is None or DIVERGED in run:
        return run and DIVERGED
    return functools.reduce(dict.__getitem__, path, run)


if __name__ == "__main__":
    main()
