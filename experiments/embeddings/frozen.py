"""Every method on frozen embeddings of scenes and of emoji, with wrong captions in training, against the truth."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.embeddings.runs import COSINE, METHODS, Metrics, results_of, table
from experiments.emoji.truth import frequent_words, graded_relevance
from vacsr_jax.atomic_files import write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.embeddings import write_embeddings
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.evaluation.retrieval import Evaluation, all_metrics
from vacsr_jax.metrics.graded import ndcg
from vacsr_jax.pretrained import load
from vacsr_jax.scoring.data_pairs import arrays_of, write_pairs

NOISE = (0.0, 0.2, 0.5)
SEEDS = 3
TRAIN_ON, TEST_ON = "fluent", "openmoji"  # vendors of emoji that the towers have not seen
SCENES_COLUMNS = {"true/mAP@R": "true mAP@R", "i2t/R@1": "i2t R@1", "t2i/R@1": "t2i R@1", "true/ECE": "true ECE"}
EMOJI_COLUMNS = {"nDCG": "nDCG", "rsum": "rsum", "ECE": "ECE of the labels"}
FIELDS = {
    "optim.lr": 1e-3,
    "train.steps": 1000,
    "checkpoint.every": 50,
    "train.patience": 4,
    "train.log_every": 50,
    "data.validation_size": 300,
}


def run_scenes(options: argparse.Namespace) -> None:
    out = Path(options.out) / "frozen_scenes"
    file, scenes = out / "scenes.npz", load_config("configs/scenes.py", [])
    if not file.is_file():
        write_pairs(load(options.towers), scenes, file)
    relevance = open_split(scenes, "test").relevance()

    def against_truth(found: Evaluation) -> Metrics:
        return all_metrics(found.scores, found.probability, found.labels, relevance)

    compare(options, file, out, against_truth, SCENES_COLUMNS)


def run_emoji(options: argparse.Namespace) -> None:
    out, data = Path(options.out) / "frozen_emoji", Path(options.data)
    file = out / "emoji.npz"
    if not file.is_file():
        write_emoji(load(options.towers), data, file)
    test = read_image_folder(data / TEST_ON, split="train")
    ignored = frequent_words(read_image_folder(data / TEST_ON).records)
    grades = graded_relevance(test.records, test.records, ignored=ignored)[:, caption_pairs(test)[1]] / 3

    def against_truth(found: Evaluation) -> Metrics:
        score = found.scores.by_match()
        return found.metrics | {"nDCG": (ndcg(score, grades) + ndcg(score.T, grades.T)) / 2}

    compare(options, file, out, against_truth, EMOJI_COLUMNS)


def write_emoji(model, data: Path, file: Path) -> None:
    """One vendor's embeddings for training and validation; another's, of ids that were trained on, for the test."""
    sources = {split: read_image_folder(data / TRAIN_ON, split=split) for split in ("train", "validation")}
    sources["test"] = read_image_folder(data / TEST_ON, split="train")
    parts = [arrays_of(model, source, split) for split, source in sources.items()]
    first = 0
    for part in parts:
        part["image_of"] += first
        part["image_ids"] = np.char.add(f"{part['split'][0]}/", part["image_ids"])
        first += len(part["image_ids"])
    write_embeddings(file, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def compare(
    options: argparse.Namespace,
    file: Path,
    out: Path,
    evaluate: Callable[[Evaluation], Metrics],
    columns: dict[str, str],
) -> None:
    """Trains what has no result yet, seed by seed, and prints a table for each share of wrong captions."""
    methods = options.methods.split(",") if options.methods else list(METHODS)
    rows: dict[float, dict[str, list[Metrics]]] = {noise: {} for noise in NOISE}
    for seed in range(SEEDS):
        for noise in NOISE:
            for method in methods:
                fields = FIELDS | METHODS[method] | {"data.noise": noise, "seed": seed}
                found = results_of(file, out / f"{method}-{noise}-{seed}", fields, evaluate)
                if method == methods[0]:
                    rows[noise].setdefault(COSINE, []).append(found["untrained"])
                rows[noise].setdefault(method, []).append(found["trained"] | {"step": found["step"]["best"]})
    for noise, of_noise in rows.items():
        text = f"{noise:.0%} wrong captions in training\n\n{table(of_noise, columns | {'step': 'best step'})}"
        write_text(out / f"noise{noise}.md", text + "\n")
        print(text + "\n", flush=True)
