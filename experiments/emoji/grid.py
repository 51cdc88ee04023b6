"""Every method on real pictures, clean and with noisy captions: `python -m experiments.emoji.grid --data=FOLDER`.

Trains on two vendors' emoji and tests on two unseen vendors. Finished runs are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from experiments.emoji.__main__ import TRAIN, UNSEEN
from experiments.emoji.truth import frequent_words, graded_relevance
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.main import quiet
from vacsr_jax.metrics.graded import ndcg
from vacsr_jax.pretrained import load_workdir
from vacsr_jax.report.tables import format_table
from vacsr_jax.training.loop import train

METHODS = ("infonce", "sigmoid", "triplet", "pcmepp", "deterministic", "vacsr")
NOISE = (0.0, 0.2, 0.5)
SEEDS = (0, 1, 2)
METRICS = ("rsum", "nDCG")
# With 32 pixels and 400 steps the whole grid takes half an hour of one CPU core.
FIELDS = (
    "model.image_size=32",
    "train.steps=400",
    "optim.warmup_steps=100",
    "checkpoint.every=200",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.emoji.grid", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder with noto, twemoji, fluent and openmoji")
    parser.add_argument("--out", default="runs/experiments/emoji_grid", help="folder of runs and results")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs, without training")
    options = parser.parse_args()
    quiet()
    data, out = Path(options.data), Path(options.out)
    # Steps of one method and seed share a compiled program, whatever the noise.
    jax.config.update("jax_compilation_cache_dir", str(out.absolute() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for seed in range(options.seeds):
        for noise in NOISE:
            for method in METHODS:
                if not options.table:
                    run(data, out, method, noise, seed)
    print(table(out, options.seeds))


def result_file(out: Path, method: str, noise: float, seed: int) -> Path:
    return out / f"{method}-noise{noise}-seed{seed}.json"


def run(data: Path, out: Path, method: str, noise: float, seed: int) -> None:
    """Trains, and writes the numbers of the best checkpoint and of the untrained model."""
    file = result_file(out, method, noise, seed)
    if file.exists():
        return
    path = ",".join(str(data / vendor) for vendor in TRAIN)
    overrides = [f"--config.{field}" for field in (*FIELDS, f"data.noise={noise}", f"seed={seed}")]
    workdir = out / "workdirs" / file.stem
    train(load_config(f"configs/image_folder.py:method={method},path={path}", overrides), workdir)
    best = load_workdir(workdir, "best")
    write_text(file, to_json({"step": best.step, **measure(data, best)}))
    print(file.stem, flush=True)


def measure(data: Path, model) -> dict[str, float]:
    """Means over the unseen vendors, for ids seen in training: rsum against captions, nDCG against graded relevance."""
    found = {name: [] for name in METRICS}
    for vendor in UNSEEN:
        source = read_image_folder(data / vendor, split="train")
        evaluation, ignored = evaluate_captions(model, source), frequent_words(read_image_folder(data / vendor).records)
        grades = graded_relevance(source.records, source.records, ignored=ignored)[:, caption_pairs(source)[1]] / 3
        logit = evaluation.scores.by_match()
        found["rsum"].append(evaluation.metrics["rsum"])
        found["nDCG"].append((ndcg(logit, grades) + ndcg(logit.T, grades.T)) / 2)
    return {name: float(np.mean(values)) for name, values in found.items()}


def table(out: Path, seeds: int) -> str:
    def cell(method, noise, metric):
        files = [result_file(out, method, noise, seed) for seed in range(seeds)]
        if not all(file.exists() for file in files):
            return "not run"
        values = [json.loads(file.read_text())[metric] for file in files]
        return (np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5) if seeds > 1 else values[0]

    columns = [(metric, noise) for metric in METRICS for noise in NOISE]
    rows = [[method, *(cell(method, noise, metric) for metric, noise in columns)] for method in METHODS]
    return format_table(rows, ["", *(f"{metric} {noise:.0%}" for metric, noise in columns)], markdown=True)


if __name__ == "__main__":
    main()
