"""From how many pairs on does an adapter gain anything? Frozen towers of a run on scenes, against the known truth."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from experiments.embeddings.runs import COSINE, METHODS, Metrics, results_of, table
from vacsr_jax.atomic_files import write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.evaluation.retrieval import Evaluation, all_metrics
from vacsr_jax.pretrained import load
from vacsr_jax.scoring.data_pairs import write_pairs

SIZES = (100, 300, 1000, 3000, 12_000)  # images, each with five captions
SEEDS = 2
COLUMNS = {
    "true/mAP@R": "true mAP@R",
    "i2t/R@1": "i2t R@1",
    "t2i/R@1": "t2i R@1",
    "true/ECE": "true ECE",
    "step": "step",
}
FIELDS = {
    "optim.lr": 1e-3,
    "train.steps": 2000,
    "checkpoint.every": 100,
    "train.patience": 4,
    "train.log_every": 100,
    "data.validation_size": 300,
}


def run(options: argparse.Namespace) -> None:
    out = Path(options.out) / "curve"
    whole = out / "scenes.npz"
    scenes = load_config("configs/scenes.py", [])
    if not whole.is_file():
        write_pairs(load(options.towers), scenes, whole)
    relevance = open_split(scenes, "test").relevance()

    def against_truth(evaluation: Evaluation) -> Metrics:
        return all_metrics(evaluation.scores, evaluation.probability, evaluation.labels, relevance)

    rows: dict[str, list[Metrics]] = {}
    for size in SIZES:
        for seed in range(SEEDS):
            path = subset(whole, out, size, seed)
            for method in (options.methods or "propensity,sigmoid").split(","):
                fields = FIELDS | METHODS[method] | {"seed": seed}
                found = results_of(path, out / f"{method}-{size}-{seed}", fields, against_truth)
                rows.setdefault(f"{method}, {size} images", []).append(
                    found["trained"] | {"step": found["step"]["best"]}
                )
                if method == "propensity" and size == SIZES[-1]:
                    rows.setdefault(COSINE, []).append(found["untrained"])
    text = table(dict(sorted(rows.items(), key=lambda row: row[0] != COSINE)), COLUMNS)
    write_text(out / "curve.md", text + "\n")
    print(text)


def subset(whole: Path, out: Path, size: int, seed: int) -> Path:
    """The file with only `size` of its training images."""
    path = out / f"scenes-{size}-{seed}.npz"
    if path.is_file():
        return path
    pairs = read_pairs(whole)
    train = np.flatnonzero(pairs.splits() == "train")
    kept = np.random.default_rng(seed).permutation(train)[:size]
    rows = np.sort(np.concatenate([kept, np.flatnonzero(pairs.splits() != "train")]))
    new = np.full(len(pairs.images), -1)
    new[rows] = np.arange(len(rows))
    texts = np.flatnonzero(new[pairs.image_of] >= 0)
    pairs = dataclasses.replace(pairs, image_of=new[pairs.image_of[texts]])
    np.savez(
        path,
        image_embeddings=pairs.images[rows],
        text_embeddings=pairs.texts[texts],
        image_of=pairs.image_of,
        split=pairs.splits()[rows],
    )
    return path
