"""Five-fold cross-validation on CLIP ViT-B/16's features of 500 COCO images with one caption each."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.embeddings.runs import COSINE, METHODS, Metrics, label_metrics, results_of, table
from vacsr_jax.atomic_files import write_text

FOLDS, VALIDATION = 5, 80  # of the 400 training pairs
NOISE = (0.0, 0.2, 0.5)
COLUMNS = {
    "i2t/R@1": "i2t R@1",
    "i2t/R@5": "R@5",
    "i2t/R@10": "R@10",
    "t2i/R@1": "t2i R@1",
    "t2i/R@5": "R@5 ",
    "t2i/R@10": "R@10 ",
    "ECE": "ECE",
    "AUROC": "AUROC",
    "step": "best step",
}
FIELDS = {
    "train.steps": 1000,
    "optim.warmup_steps": 50,
    "optim.lr": 3e-4,
    "checkpoint.every": 25,
    "train.patience": 5,
    "train.log_every": 25,
}


def run(options: argparse.Namespace) -> None:
    out = Path(options.out) / "coco500"
    with np.load(Path(options.data) / "features.npz", allow_pickle=False) as file:
        images, texts, ids = file["image"], file["text"], file["coco_image_id"].astype(str)
    methods = options.methods.split(",") if options.methods else list(METHODS)
    for noise in NOISE:
        rows: dict[str, list[Metrics]] = {}
        for fold in range(FOLDS):
            path = write_fold(out, images, texts, ids, fold, noise)
            for method in methods:
                folder = out / f"noise{noise}" / f"{method}-{fold}"
                found = results_of(path, folder, FIELDS | METHODS[method] | {"seed": fold}, label_metrics)
                if method == "propensity":
                    rows.setdefault(COSINE, []).append(found["untrained"])
                rows.setdefault(method, []).append({**found["trained"], "step": found["step"]["best"]})
        text = f"{100 * noise:.0f} % wrong training pairs\n\n{table(rows, COLUMNS)}"
        write_text(out / f"noise{noise}.md", text + "\n")
        print(text + "\n", flush=True)


def write_fold(out: Path, images: np.ndarray, texts: np.ndarray, ids: np.ndarray, fold: int, noise: float) -> Path:
    """The file of a fold. The wrong pairs are among training and validation pairs; the test pairs are right."""
    n = len(ids)
    order = np.random.default_rng(0).permutation(n)
    split = np.full(n, "train", "U10")
    test = order[fold::FOLDS]
    rest = np.setdiff1d(order, test)
    rng = np.random.default_rng([1, fold])
    rest = rng.permutation(rest)
    split[test], split[rest[:VALIDATION]] = "test", "validation"
    image_of = np.arange(n)
    for part in (rest[:VALIDATION], rest[VALIDATION:]):
        wrong = part[: int(noise * len(part))]
        image_of[wrong] = np.roll(wrong, 1)  # each wrong caption has another one's image
    path = out / f"fold{fold}-noise{noise}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image_embeddings=images, text_embeddings=texts, image_of=image_of, image_ids=ids, split=split)
    return path
