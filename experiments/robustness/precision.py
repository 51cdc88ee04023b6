"""bfloat16 beside float32 on the embedded default: the same seeds, evaluated on the test split.

`python -m experiments.robustness.precision --out=runs/experiments/precision` trains both with every seed (finished runs
are kept and not repeated). It prints each metric's mean and standard deviation, and the mean and the largest difference
within a seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.scenes.runs import Task, run_all
from vacsr_jax.report.tables import format_table

DTYPES = ("float32", "bfloat16")
METRICS = ("true/mAP@R", "true/nDCG", "mAP@R", "i2t/R@1", "t2i/R@1", "rsum", "ECE", "true/AUROC uncertainty top/pooled")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.robustness.precision", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument(
        "--steps", type=int, default=3000, help="steps of every run (default: 3000, as configs/scenes.py)"
    )
    parser.add_argument("--out", default="runs/experiments/precision", help="folder of runs and results")
    options = parser.parse_args()
    tasks = [
        Task(f"{dtype}-seed{seed}", {"model.dtype": dtype, "seed": seed, "train.steps": options.steps})
        for seed in range(options.seeds)
        for dtype in DTYPES
    ]
    print(table(run_all(tasks, Path(options.out), jobs=1), options.seeds))


def table(results: dict[str, dict], seeds: int) -> str:
    """Returns one row per metric: both means with standard deviations, and the differences within seeds."""
    rows = []
    for metric in METRICS:
        a, b = (np.array([results[f"{dtype}-seed{s}"]["test"][metric] for s in range(seeds)]) for dtype in DTYPES)
        rows.append([metric, spread(a), spread(b), float(np.mean(b - a)), float(np.max(np.abs(b - a)))])
    seconds = [spread(np.array([results[f"{d}-seed{s}"]["seconds"] for s in range(seeds)])) for d in DTYPES]
    rows.append(["training, seconds", *seconds, None, None])
    return format_table(rows, ["metric", *DTYPES, "mean difference", "largest difference"], digits=4)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over seeds."""
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
