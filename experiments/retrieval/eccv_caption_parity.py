"""Compares `vacsr evaluate-matrix` with the public package eccv_caption on full-size matrices, in digits and time.

    pip install eccv_caption==0.1.0
    python -m experiments.retrieval.eccv_caption_parity

The package takes ranked Python lists of all 125 million ids in each direction: about 10 GB and some minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import eccv_caption
import numpy as np

from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.main import main as vacsr

GROUND_TRUTH = Path(eccv_caption.__file__).parent / "data"
SETS = ("coco_1k_recalls", "coco_5k_recalls", "cxc_recalls", "eccv_map_at_r", "eccv_rprecision", "eccv_r1")
BONUS = {"original": 1.5, "cxc": 0.7, "eccv": 1.0}  # added to positives, for numbers like those of a good model


def matrix(images: np.ndarray, captions: np.ndarray, truth, informative: bool, seed: int) -> np.ndarray:
    """Draws float32 [images, captions]: normal noise, plus `BONUS` on the positives of each ground truth."""
    scores = np.random.default_rng(seed).standard_normal((len(images), len(captions)), dtype=np.float32)
    row, column = ({int(i): n for n, i in enumerate(ids)} for ids in (images, captions))
    for name, bonus in BONUS.items() if informative else ():
        matches = getattr(truth, name)
        pairs = {(i, c) for i, found in matches.i2t.items() for c in found}
        pairs |= {(i, c) for c, found in matches.t2i.items() for i in found}
        for image, caption in pairs:
            if caption in column:
                scores[row[image], column[caption]] += bonus
    return scores


def package_scores(scores: np.ndarray, images: np.ndarray, captions: np.ndarray) -> dict:
    i2t = {int(i): captions[np.argsort(-row)].tolist() for i, row in zip(images, scores, strict=True)}
    t2i = {int(i): images[np.argsort(-row)].tolist() for i, row in zip(captions, scores.T, strict=True)}
    return eccv_caption.Metrics().compute_all_metrics(i2t, t2i, target_metrics=SETS, Ks=(1, 5, 10))


def compare(informative: bool, seed: int, folder: Path) -> None:
    truth = read_caption_truth(GROUND_TRUTH)
    rng = np.random.default_rng([seed, 1])  # shuffled rows and columns
    images, captions = rng.permutation(list(truth.original.i2t)), rng.permutation(truth.test_ids)
    scores = matrix(images, captions, truth, informative, seed)
    files = {"similarity": folder / "S.npy", "image_ids": folder / "i.npy", "caption_ids": folder / "c.npy"}
    for path, array in zip(files.values(), (scores, images, captions), strict=True):
        np.save(path, array)
    arguments = [f"--{name}={path}" for name, path in files.items()]
    start, cpu = time.perf_counter(), time.process_time()
    vacsr(["evaluate-matrix", *arguments, f"--ground_truth={GROUND_TRUTH}", f"--out={folder / 'metrics.json'}"])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    ours = json.loads((folder / "metrics.json").read_text())
    start = time.perf_counter()
    theirs = package_scores(scores, images, captions)
    different = [f"{n}/{d}" for n, x in theirs.items() for d in x if ours[n][d] != x[d]]
    print(
        f"{'informative' if informative else 'random'}: vacsr evaluate-matrix {wall:.1f} s ({cpu:.1f} s of one core), ",
        end="",
    )
    print(f"package {time.perf_counter() - start:.0f} s; {2 * len(theirs)} numbers, different: {different or 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for kind in (False, True):
            compare(kind, options.seed, Path(made))
