"""COCO's metrics against a plain reading of their definitions; ties, folds, dtypes, refusals."""

import dataclasses

import numpy as np
import pytest

from tests.parity.make_eccv_caption_golden import drawn_truth, matrix
from vacsr_jax.metrics import coco
from vacsr_jax.metrics.coco import Matches, coco_metrics

TRUTH = drawn_truth()
SCORES, IMAGES, CAPTIONS = matrix(TRUTH)


def by_definition(scores, images, captions, truth):
    """Computes the metrics with lists and loops. Among equal scores a negative comes first."""
    result = {}
    for d, s, queries, gallery in (("i2t", scores, images, captions), ("t2i", scores.T, captions, images)):
        row = dict(zip(queries.tolist(), s, strict=True))

        def ranked(query, positives, among=None, row=row, gallery=gallery):
            items = [(-x, i in positives, i) for x, i in zip(row[query], gallery.tolist(), strict=True)]
            return [hit for _, hit, i in sorted(items) if among is None or i in among]

        def recall(matches, k, among=None, ranked=ranked):
            return np.mean([any(ranked(q, set(p), among)[:k]) for q, p in matches.items()])

        folds = []
        for fold in np.split(truth.test_ids, 5):
            pair = {int(c): truth.original.t2i[int(c)][0] for c in fold}
            keys, among = (set(pair.values()), set(pair)) if d == "i2t" else (set(pair), set(pair.values()))
            folds.append(({q: p for q, p in getattr(truth.original, d).items() if q in keys}, among))
        for k in (1, 5, 10):
            result[f"coco_5k_r{k}", d] = recall(getattr(truth.original, d), k)
            result[f"cxc_r{k}", d] = recall(getattr(truth.cxc, d), k)
            result[f"coco_1k_r{k}", d] = np.mean([recall(part, k, among) for part, among in folds])
        hits = [np.array(ranked(q, set(p))[: len(set(p))], float) for q, p in getattr(truth.eccv, d).items()]
        n = [len(set(p)) for p in getattr(truth.eccv, d).values()]
        precision = [np.cumsum(h) / np.arange(1, len(h) + 1) for h in hits]
        result["eccv_map_at_r", d] = np.mean([(p * h).sum() / r for p, h, r in zip(precision, hits, n, strict=True)])
        result["eccv_rprecision", d] = np.mean([h.sum() / r for h, r in zip(hits, n, strict=True)])
        result["eccv_r1", d] = recall(getattr(truth.eccv, d), 1)
    return result


def flat(scores):
    return {(name, d): x for name, values in scores.items() for d, x in values.items() if "rsum" not in name}


@pytest.mark.parametrize("digits", [None, 1, 0], ids=["no ties", "ties", "many ties"])
def test_it_is_its_definition(digits):
    scores = SCORES if digits is None else SCORES.round(digits)
    assert flat(coco_metrics(scores, IMAGES, CAPTIONS, TRUTH)) == pytest.approx(
        by_definition(scores, IMAGES, CAPTIONS, TRUTH), abs=1e-12
    )


def test_blocks_of_rows_change_nothing(monkeypatch):
    whole = coco_metrics(SCORES, IMAGES, CAPTIONS, TRUTH)
    monkeypatch.setattr(coco, "_BLOCK_ENTRIES", 300)
    assert coco_metrics(SCORES, IMAGES, CAPTIONS, TRUTH) == whole


def test_the_order_of_rows_and_columns_changes_nothing():
    rng = np.random.default_rng(0)
    r, c = rng.permutation(len(IMAGES)), rng.permutation(len(CAPTIONS))
    shuffled = coco_metrics(SCORES[r][:, c], IMAGES[r], CAPTIONS[c], TRUTH)
    assert shuffled == coco_metrics(SCORES, IMAGES, CAPTIONS, TRUTH)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_half_precision_and_integers_rank_as_they_are(dtype):
    scores = (1000 * SCORES).astype(dtype)
    assert coco_metrics(scores, IMAGES, CAPTIONS, TRUTH) == coco_metrics(
        scores.astype(np.float64), IMAGES, CAPTIONS, TRUTH
    )


def test_a_collapsed_model_scores_nothing():
    found = coco_metrics(np.zeros_like(SCORES), IMAGES, CAPTIONS, TRUTH)
    assert found["coco_5k_r1"] == {"i2t": 0, "t2i": 0}
    assert found["eccv_map_at_r"]["t2i"] == 0


def test_a_perfect_model_scores_all_but_what_lies_outside_the_gallery():
    written = np.stack([np.isin(CAPTIONS, TRUTH.original.i2t[image]) for image in IMAGES.tolist()]).astype(float)
    found = coco_metrics(written + SCORES / 10, IMAGES, CAPTIONS, dataclasses.replace(TRUTH, eccv=TRUTH.original))
    assert found["coco_1k_rsum"] == {"i2t": 300, "t2i": 300, "sum": 600}
    assert found["eccv_map_at_r"] == {"i2t": 1, "t2i": 1}
    outside = Matches({i: [*c, 1] for i, c in TRUTH.original.i2t.items()}, TRUTH.original.t2i)
    found = coco_metrics(written, IMAGES, CAPTIONS, dataclasses.replace(TRUTH, eccv=outside))
    assert found["eccv_rprecision"]["i2t"] == pytest.approx(5 / 6)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SCORES.T, IMAGES, CAPTIONS), r"got shape \[125, 25\], expected \[25, 125\]"),
        ((SCORES, IMAGES, CAPTIONS[:-1]), r"got shape \[25, 125\], expected \[25, 124\]"),
        ((SCORES > 1, IMAGES, CAPTIONS), "got dtype bool"),
        ((SCORES, changed(IMAGES, 3, 9), CAPTIONS), r"image ids: 9 \(number 4 of 25\) is not in the ground truth"),
        ((SCORES, IMAGES, changed(CAPTIONS, 0, 5)), r"caption ids: 5 .*keep the first five captions of each image"),
        ((SCORES, changed(IMAGES, 3, IMAGES[1]), CAPTIONS), "image ids: 123 is number 2 and again number 4"),
        ((SCORES[1:], IMAGES[1:], CAPTIONS), "image ids: 1 of the 25 in the ground truth are missing, .* 124"),
        ((changed(SCORES, (2, 7), np.nan), IMAGES, CAPTIONS), r"row 2 \(image 122\), column 7 \(caption 52\) is NaN"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        coco_metrics(*arguments, TRUTH)
