"""The training-free correction s + w H on real pictures, beside its controls. One command per data set:

python -m experiments.beyond.real clip --data=FOLDER       CLIP's published features of 500 COCO images
python -m experiments.beyond.real emoji --data=FOLDER      towers trained on two vendors' emoji, tested on two others
python -m experiments.beyond.real coco_mini --data=FOLDER  towers trained on 80 COCO images, tested on 79
python -m experiments.beyond.real coco5k --images=I.npz --captions=C.npz --bank=B.npz --ground_truth=eccv_caption/data

Each prints Markdown tables with standard errors and writes JSON below --out. REAL.md has the results.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiments.beyond.coco5k import coco5k
from experiments.beyond.corrections import (
    LABELS,
    NOTHING,
    Scored,
    Units,
    biases,
    both_directions,
    corrections,
    entropy,
    report,
)
from experiments.beyond.trained import coco_mini, emoji
from experiments.beyond.words import MOSTLY, TRUE, coverage, true_pairs, words
from vacsr_jax.main import quiet
from vacsr_jax.metrics.scale import fit_scale

CLIP_SCALE = 100.0
SPLITS = 20
BANK, VALIDATION = 200, 100  # of the 500 images; the others are for test
COMMON = 4  # captions of the bank that must contain a word for it to become a text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.beyond.real", description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(required=True, metavar="EXPERIMENT")
    for name, run, what in (
        ("clip", clip, "folder with features.npz, pairs.jsonl, cxc_image_image.csv"),
        ("emoji", emoji, "folder with noto, twemoji, fluent and openmoji"),
        ("coco_mini", coco_mini, "folder with dataset_coco_mini159.json and images.zip"),
    ):
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        part.add_argument("--data", required=True, help=what)
        part.add_argument("--out", default="runs/experiments/beyond/real", help="folder of runs and results")
        if name == "clip":
            part.add_argument("--splits", type=int, default=SPLITS, help=f"random splits (default: {SPLITS})")
        else:
            part.add_argument("--methods", default="sigmoid", help="methods, separated by commas (default: sigmoid)")
            part.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    part = parts.add_parser("coco5k")
    part.set_defaults(run=coco5k)
    for name in ("images", "captions", "bank", "ground_truth"):
        part.add_argument(f"--{name}", required=True)
    part.add_argument("--out", default="runs/experiments/beyond/real", help="folder of the result")
    options = parser.parse_args()
    quiet()
    options.run(options)


# CLIP's features of COCO images.


def clip(options: argparse.Namespace) -> None:
    folder = Path(options.data)
    with np.load(folder / "features.npz", allow_pickle=False) as file:
        features = {name: file[name].astype(np.float64) for name in file.files if name.startswith(("image", "text"))}
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    records = sorted((json.loads(line) for line in lines), key=lambda r: r["index"])
    covered = coverage([words(" ".join(r["all_captions"])) for r in records], [words(r["caption"]) for r in records])
    unlabelled = {name: int(pairs.sum()) - len(records) for name, pairs in true_pairs(covered).items()}
    print(f"unlabelled pairs of {len(records)} x {len(records)}: {unlabelled}")
    tables = {}
    for title, suffix in (("CLIP ViT-B/16", ""), ("the same network before training", "_random_init")):
        sides = features[f"image{suffix}"], features[f"text{suffix}"]
        print(f"{title}: {people(sides[0] @ sides[1].T, folder / 'cxc_image_image.csv')}")
        for texts, by in (("captions", MOSTLY), ("captions and concepts", TRUE)):
            tables[f"{title}, {texts}"] = clip_units(*sides, records, options.splits, by, texts != "captions")
    metrics = ("i2t R@1", "i2t R@5", f"i2t mAP@R {TRUE}", f"i2t mAP@R {MOSTLY}", "t2i R@1", f"t2i mAP@R {MOSTLY}")
    report(options.out, "clip", tables, metrics)


def clip_units(
    images: np.ndarray, texts: np.ndarray, records: Sequence[dict], splits: int, by: str, with_concepts: bool
) -> Units:
    """Returns numbers per image, each a mean over the splits that test the image; t2i is that of its caption.

    With concepts, a word in 4 or more of the bank's captions is a text too. Its feature is the normalised mean of the
    features of those captions, and it is true of the images about which it was said.
    """
    n, found, scales, knows = len(records), {}, [], []
    pictures = [words(" ".join(r["all_captions"])) for r in records]
    captions = [words(r["caption"]) for r in records]
    for split in range(splits):
        bank, validation, test = np.split(np.random.default_rng(split).permutation(n), [BANK, BANK + VALIDATION])
        counts = Counter(word for i in bank for word in captions[i])
        concepts = sorted(word for word, count in counts.items() if with_concepts and count >= COMMON)
        means = [np.mean([texts[i] for i in bank if word in captions[i]], axis=0) for word in concepts]

        def scored(rows, bank=bank, concepts=concepts, means=means):
            vectors = np.stack([*texts[rows], *(mean / np.linalg.norm(mean) for mean in means)])
            said = [*(captions[i] for i in rows), *(frozenset([word]) for word in concepts)]
            covered = coverage(pictures, said)
            truths = {LABELS: np.eye(len(rows), len(said), dtype=bool), **true_pairs(covered[rows])}
            lengths = np.array([len(records[i]["caption"].split()) for i in rows] + [1] * len(concepts))
            generality = np.log(np.maximum(true_pairs(covered)[by].sum(axis=0), 1))
            return Scored(
                *(CLIP_SCALE * images[side] @ vectors.T for side in (rows, bank)), truths, lengths, generality
            )

        tested, held_out = scored(test), scored(validation)
        scales.append(fit_scale(held_out.scores / CLIP_SCALE, held_out.truths[LABELS]))
        knows.append(np.corrcoef(entropy(tested), tested.generality)[0, 1])
        for row, bias in corrections(held_out, tested, by):
            for metric, values in both_directions(tested, bias).items():
                line = found.setdefault(row, {}).setdefault(metric, np.full((splits, n), np.nan))
                line[split, test] = values[: len(test)]
    print(
        f"{len(tested.lengths)} texts: scale that validation pairs make likeliest {np.mean(scales):.1f} (s.d. "
        f"{np.std(scales, ddof=1):.1f}); correlation of H with the log of how many images a text is true of "
        f"{np.mean(knows):.2f} (s.d. {np.std(knows, ddof=1):.2f})"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image that no split tests
        return {row: {m: np.nanmean(x, axis=0) for m, x in metrics.items()} for row, metrics in found.items()}


def people(cosines: np.ndarray, file: Path) -> str:
    """Rank correlation between image a's score with image b's caption and people's similarity of a and b (0 to 5).

    Each pair counts in both directions. Its bank is all images except the two.
    """
    pairs = np.loadtxt(file, delimiter=",", skiprows=1)
    scores: dict[str, list[float]] = {}
    for a, b in np.concatenate([pairs[:, :2], pairs[:, 1::-1]]).astype(int):
        bank = np.delete(np.arange(len(cosines)), [a, b])
        one = Scored(*(CLIP_SCALE * cosines[np.ix_(side, [b])] for side in ([a], bank)), {}, np.zeros(1), np.zeros(1))
        for name, bias in biases(one).items():
            scores.setdefault(name, []).append(float(one.scores[0, 0] + bias[0]))
        scores.setdefault(NOTHING, []).append(float(one.scores[0, 0]))
    found = {name: spearmanr(x, np.tile(pairs[:, 2], 2)).statistic for name, x in scores.items()}
    shown = ", ".join(f"{name} {found[name]:.3f}" for name in (NOTHING, "entropy", "CSLS", "inverted softmax"))
    return f"Spearman with {len(pairs)} human image pairs: {shown}"


if __name__ == "__main__":
    main()
