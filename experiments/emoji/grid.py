"""Every method on real pictures, clean and with noisy captions: `python -m experiments.emoji.grid --data=FOLDER`.

Trains on two vendors' emoji and tests on two unseen vendors. With `--towers=pretrained`, InfoNCE trains towers on these
two with clean captions, each method goes on from them on a third vendor with noisy captions, and the fourth is the
test. Finished runs are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

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
STEPS = ("train.steps=400", "optim.warmup_steps=100", "checkpoint.every=200")
FIELDS = ("model.image_size=32", *STEPS)
ZERO_SHOT = "zero-shot"


class Setting(NamedTuple):
    """The vendors to train on, those of the test, and the fields of every run."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    fields: tuple[str, ...]


SCRATCH = Setting(TRAIN, UNSEEN, FIELDS)
FROM_TOWERS = Setting(UNSEEN[:1], UNSEEN[1:], ("model.image_size=0", *STEPS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.emoji.grid", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder with noto, twemoji, fluent and openmoji")
    parser.add_argument("--out", default="runs/experiments/emoji_grid", help="folder of runs and results")
    parser.add_argument("--towers", default="scratch", choices=("scratch", "pretrained"), help="what a run starts from")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs, without training")
    options = parser.parse_args()
    quiet()
    data, out, warm = Path(options.data), Path(options.out), options.towers == "pretrained"
    out = out / "pretrained" if warm else out
    # Steps of one method and seed share a compiled program, whatever the noise.
    jax.config.update("jax_compilation_cache_dir", str(out.absolute() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for seed in () if options.table else range(options.seeds):
        setting = from_towers(data, out, seed) if warm else SCRATCH
        for noise in NOISE:
            for method in METHODS:
                run(data, out, method, noise, seed, setting)
    print(table(out, options.seeds, (ZERO_SHOT, *METHODS) if warm else METHODS))


def result_file(out: Path, method: str, noise: float, seed: int) -> Path:
    return out / f"{method}-noise{noise}-seed{seed}.json"


def from_towers(data: Path, out: Path, seed: int) -> Setting:
    """Trains towers on the vendors of TRAIN unless they are there, and writes their numbers on the test vendor."""
    workdir = out / f"towers-seed{seed}"
    train_on(data, TRAIN, workdir, "infonce", (*FIELDS, f"seed={seed}"))
    numbers = to_json(measure(data, load_workdir(workdir, "best"), FROM_TOWERS.test))
    for noise in NOISE:  # the same for each: these towers have seen no noise
        write_text(result_file(out, ZERO_SHOT, noise, seed), numbers)
    return FROM_TOWERS._replace(fields=(*FROM_TOWERS.fields, f"model.pretrained={workdir}"))


def train_on(data: Path, vendors: tuple[str, ...], workdir: Path, method: str, fields: tuple[str, ...]) -> None:
    path = ",".join(str(data / vendor) for vendor in vendors)
    overrides = [f"--config.{field}" for field in fields]
    train(load_config(f"configs/image_folder.py:method={method},path={path}", overrides), workdir)


def run(data: Path, out: Path, method: str, noise: float, seed: int, setting: Setting) -> None:
    """Trains, and writes the numbers of the best checkpoint."""
    file = result_file(out, method, noise, seed)
    if file.exists():
        return
    workdir = out / "workdirs" / file.stem
    train_on(data, setting.train, workdir, method, (*setting.fields, f"data.noise={noise}", f"seed={seed}"))
    best = load_workdir(workdir, "best")
    write_text(file, to_json({"step": best.step, **measure(data, best, setting.test)}))
    print(file.stem, flush=True)


def measure(data: Path, model, vendors: tuple[str, ...]) -> dict[str, float]:
    """Means over these vendors, for ids seen in training: rsum against captions, nDCG against graded relevance."""
    found = {name: [] for name in METRICS}
    for vendor in vendors:
        source = read_image_folder(data / vendor, split="train")
        evaluation, ignored = evaluate_captions(model, source), frequent_words(read_image_folder(data / vendor).records)
        grades = graded_relevance(source.records, source.records, ignored=ignored)[:, caption_pairs(source)[1]] / 3
        logit = evaluation.scores.by_match()
        found["rsum"].append(evaluation.metrics["rsum"])
        found["nDCG"].append((ndcg(logit, grades) + ndcg(logit.T, grades.T)) / 2)
    return {name: float(np.mean(values)) for name, values in found.items()}


def table(out: Path, seeds: int, methods: tuple[str, ...]) -> str:
    def cell(method, noise, metric):
        files = [result_file(out, method, noise, seed) for seed in range(seeds)]
        if not all(file.exists() for file in files):
            return "not run"
        values = [json.loads(file.read_text())[metric] for file in files]
        return (np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5) if seeds > 1 else values[0]

    columns = [(metric, noise) for metric in METRICS for noise in NOISE]
    rows = [[method, *(cell(method, noise, metric) for metric, noise in columns)] for method in methods]
    return format_table(rows, ["", *(f"{metric} {noise:.0%}" for metric, noise in columns)], markdown=True)


if __name__ == "__main__":
    main()
