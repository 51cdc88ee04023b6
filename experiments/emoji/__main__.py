"""Real pictures: train on two vendors' emoji, test on two unseen vendors, beside a baseline of raw pixels.

`python -m experiments.emoji --data=FOLDER`, where the folder holds one Hugging Face ImageFolder per vendor. Finished
runs are kept under --out and not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from experiments.emoji.truth import frequent_words, graded_relevance
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import caption_pairs, load_images
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.main import quiet
from vacsr_jax.metrics.graded import ndcg
from vacsr_jax.pretrained import Pretrained, load_workdir
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring.embed import embed_images
from vacsr_jax.training.loop import train

METHODS = ("sigmoid", "deterministic", "vacsr")
TRAIN, QUERY, UNSEEN = ("noto", "twemoji"), "noto", ("fluent", "openmoji")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.emoji", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder with noto, twemoji, fluent and openmoji")
    parser.add_argument("--out", default="runs/experiments/emoji", help="folder of runs and results")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a config field in every run"
    )
    options = parser.parse_args()
    quiet()
    data, out = Path(options.data), Path(options.out)
    results = {"pixels": [across(data, pixel_features)]}
    for method in METHODS:
        runs = [run(data, out, method, seed, options.set) for seed in range(options.seeds)]
        results["untrained"] = [untrained for untrained, _ in runs]
        results[method] = [trained for _, trained in runs]
    write_text(out / "emoji.json", to_json(results))
    for title, names in TABLES.items():
        rows = [[name, *(cell(runs, name) for runs in results.values())] for name in names]
        print(f"{title}\n\n{format_table(rows, ['', *results], markdown=True)}\n")


TABLES = {
    f"Picture to picture, {QUERY} to a vendor never seen, R@1": [
        f"{vendor}, {ids}" for vendor in UNSEEN for ids in ("all ids", "test ids")
    ],
    "Picture and text, vendors never seen": [
        f"{vendor}, {ids}: {metric}"
        for vendor in UNSEEN
        for ids in ("train ids", "test ids")
        for metric in ("i2t R@1", "t2i R@1", "nDCG")
    ],
}


def cell(runs: list[dict], name: str):
    """Returns the value, or (mean, standard error) over seeds; None if the model lacks the number."""
    values = [result.get(name) for result in runs]
    if None in values:
        return None
    return values[0] if len(values) == 1 else (np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5)


def run(data: Path, out: Path, method: str, seed: int, fields: list[str]) -> tuple[dict, dict]:
    """Returns the numbers of the untrained and the trained model."""
    path = ",".join(str(data / vendor) for vendor in TRAIN)
    overrides = [f"--config.{field}" for field in (*fields, f"seed={seed}")]
    config = load_config(f"configs/image_folder.py:method={method},path={path}", overrides)
    workdir = out / f"{method}-seed{seed}"
    run, _ = train(config, workdir)
    best = load_workdir(workdir, "best")
    untrained = dataclasses.replace(best, params=run.params)
    return measure(data, untrained), measure(data, best)


def measure(data: Path, model: Pretrained) -> dict[str, float]:
    def features(source):
        return centred(embed_images(model.model, model.params, source, model.preprocess))

    return across(data, features) | with_text(data, model)


def across(data: Path, features) -> dict[str, float]:
    """R@1 of finding the same emoji among another vendor's by cosine, over all ids and over the test ids only."""
    found = {}
    for ids, split in (("all ids", None), ("test ids", "test")):
        queries = features(read_image_folder(data / QUERY, split=split))
        for vendor in UNSEEN:
            gallery = features(read_image_folder(data / vendor, split=split))
            hits = np.argmax(queries @ gallery.T, axis=1) == np.arange(len(queries))
            found[f"{vendor}, {ids}"] = float(hits.mean())
    return found


def pixel_features(source) -> np.ndarray:
    """Shrinks pictures to 16 x 16 pixels, means of 4 x 4 boxes."""
    pixels = load_images(source, np.arange(len(source))).astype(np.float64) / 255
    return centred(pixels.reshape(-1, 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(pixels), -1))


def centred(x: np.ndarray) -> np.ndarray:
    """Subtracts the mean, the look that a vendor's pictures share, and scales rows to unit length."""
    x = x - x.mean(axis=0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def with_text(data: Path, model: Pretrained) -> dict[str, float]:
    """Retrieval between an unseen vendor's pictures and captions, for ids seen in training and for new ids."""
    found = {}
    for vendor in UNSEEN:
        ignored = frequent_words(read_image_folder(data / vendor).records)
        for split in ("train", "test"):
            source = read_image_folder(data / vendor, split=split)
            evaluation = evaluate_captions(model, source)
            _, image_index = caption_pairs(source)
            grades = graded_relevance(source.records, source.records, ignored=ignored)[:, image_index] / 3
            name = f"{vendor}, {split} ids"
            found[f"{name}: i2t R@1"] = evaluation.metrics["i2t/R@1"]
            found[f"{name}: t2i R@1"] = evaluation.metrics["t2i/R@1"]
            score = evaluation.scores.by_match()
            both = ndcg(score, grades), ndcg(score.T, grades.T)
            found[f"{name}: nDCG"] = sum(both) / 2
    return found


if __name__ == "__main__":
    main()
