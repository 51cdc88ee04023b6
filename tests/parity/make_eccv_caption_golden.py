"""Writes the results of the public package eccv_caption 0.1.0 on two small ground truths and matrices.

pip install eccv_caption==0.1.0 && python tests/parity/make_eccv_caption_golden.py
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.metrics.coco import CaptionTruth, Matches

GOLDEN = Path(__file__).parent / "golden" / "eccv_caption.json"
REAL = Path(__file__).parents[3] / "shared" / "data" / "retrieval" / "eccv_caption"
SETS = ("coco_1k_recalls", "coco_5k_recalls", "cxc_recalls", "eccv_map_at_r", "eccv_rprecision", "eccv_r1")


def noise(n: int, m: int) -> np.ndarray:
    """float64 [n, m] in [0, 1), no two equal in a row or column: a hash, which is the same everywhere."""
    i, j = np.arange(1, n + 1)[:, None], np.arange(1, m + 1)[None, :]
    return (i * 7919 + j * 104_729 + (i * j) ** 2 * 31 + i**2 * 1009) % 1_000_003 / 1_000_003


def drawn_truth(n_images: int = 25) -> CaptionTruth:
    """Images 100.. with five captions each, in no order; positives of the other two sets by hash, some not in the
    gallery, the two directions not mirrored, some queries left out."""
    captions = np.arange(n_images * 5) * 7 + 3
    image_of = {int(c): 100 + n // 5 for n, c in enumerate(captions)}
    images = list(dict.fromkeys(image_of.values()))
    original = Matches(
        {i: [c for c in image_of if image_of[c] == i] for i in images}, {c: [i] for c, i in image_of.items()}
    )
    h = noise(n_images, len(captions))
    cxc, eccv = drawn_matches(images, captions, h, 0.03), drawn_matches(images, captions, 1 - h, 0.1)
    return CaptionTruth(captions.reshape(5, n_images)[::-1].ravel(), original, cxc, eccv)


def drawn_matches(images: list[int], captions: np.ndarray, h: np.ndarray, share: float) -> Matches:
    i2t = {
        i: [int(c) for c in captions[row < share]] + [1] * (n % 2)
        for n, (i, row) in enumerate(zip(images, h, strict=True))
    }
    t2i = {
        int(c): [i for i, x in zip(images, column, strict=True) if x > 1 - share]
        for c, column in zip(captions, h.T, strict=True)
    }
    return Matches(*({query: found for query, found in matches.items() if found} for matches in (i2t, t2i)))


def real_part() -> CaptionTruth:
    """The real ground truth of the first 200 images and 1,000 captions; positives beyond them still count in R."""
    truth = read_caption_truth(REAL)
    captions = truth.test_ids[:1000]
    images = {truth.original.t2i[int(c)][0] for c in captions}
    kept = {"i2t": images, "t2i": set(captions.tolist())}
    parts = {
        name: Matches(*({q: x for q, x in getattr(getattr(truth, name), d).items() if q in kept[d]} for d in kept))
        for name in ("original", "cxc", "eccv")
    }
    return dataclasses.replace(truth, test_ids=captions, **parts)


def matrix(truth: CaptionTruth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes informative scores, and ids of rows and columns that are not in the ground truth's order."""
    images, captions = np.array(list(truth.original.i2t))[::-1], np.sort(truth.test_ids)
    scores = noise(len(images), len(captions))
    for bonus, matches in ((0.05, truth.original), (0.03, truth.cxc), (0.05, truth.eccv)):
        for n, image in enumerate(images):
            scores[n, np.isin(captions, matches.i2t.get(int(image), []))] += bonus
    return scores, images, captions


def package_scores(truth: CaptionTruth, scores: np.ndarray, images: np.ndarray, captions: np.ndarray) -> dict:
    import eccv_caption

    package = eccv_caption.Metrics()
    package.coco_ids = truth.test_ids
    for name, theirs in (("original", "coco_gts"), ("cxc", "cxc_gts"), ("eccv", "eccv_gts")):
        setattr(package, theirs, getattr(truth, name)._asdict())
    i2t = {int(i): captions[np.argsort(-row)].tolist() for i, row in zip(images, scores, strict=True)}
    t2i = {int(c): images[np.argsort(-row)].tolist() for c, row in zip(captions, scores.T, strict=True)}
    found = package.compute_all_metrics(i2t, t2i, target_metrics=SETS, Ks=(1, 5, 10))
    return {name: {d: float(x) for d, x in values.items()} for name, values in found.items()}


if __name__ == "__main__":
    golden = {name: package_scores(t, *matrix(t)) for name, t in (("drawn", drawn_truth()), ("real", real_part()))}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
