"""COCO's test split before and after the correction: ECCV Caption, CxC and COCO, for any frozen model's embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.beyond.corrections import NOTHING, Scored, biases
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.data.embeddings import Embeddings, check_same_space, read_embeddings
from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.metrics.coco import CaptionTruth, Scores, coco_metrics
from vacsr_jax.report.tables import format_table
from vacsr_jax.search import text_entropy

SHOWN = ("eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_r1", "cxc_r5", "coco_5k_r1", "coco_1k_r1")


def coco5k(options: argparse.Namespace) -> None:
    """--images, --captions: npz with embeddings, ids (COCO's numbers) and modality; --bank: of `vacsr entropy fit`."""
    images, captions = read_embeddings(options.images), read_embeddings(options.captions)
    check_same_space(images, captions)
    bank = text_entropy.load(options.bank)
    inside = sorted(set(bank.ids) & set(images.ids.tolist()))
    if inside:
        raise ValueError(
            f"{options.bank}: {len(inside)} images of the bank are in the test split, such as {inside[0]}; "
            "make the bank of training images"
        )
    found = before_and_after(images, captions, bank, read_caption_truth(options.ground_truth))
    write_text(Path(options.out) / "coco5k.json", to_json(found))
    for direction in ("i2t", "t2i"):
        rows = [[name, *(scores[metric][direction] for metric in SHOWN)] for name, scores in found.items()]
        print(f"\n{direction}\n\n{format_table(rows, ['', *SHOWN], markdown=True, digits=4)}")


def before_and_after(
    images: Embeddings, captions: Embeddings, bank: text_entropy.ReferenceImages, truth: CaptionTruth
) -> dict[str, Scores]:
    """Computes `coco_metrics` of the cosines alone, with the entropy at the bank's weight, and with the controls.

    Raises:
      ValueError: for ids that are not numbers, or not those of the ground truth.
    """
    ids = [numbers(items.ids) for items in (images, captions)]
    cosines = images.vectors @ captions.vectors.T
    there = Scored(cosines, bank.scale * (bank.images @ captions.vectors.T), {}, *(np.zeros(len(captions)),) * 2)
    named = biases(there)
    added = {NOTHING: 0 * named["entropy"], f"entropy, w {bank.weight:g}": bank.weight * named["entropy"]}
    added |= {name: named[name] for name in ("CSLS", "inverted softmax")}
    return {
        name: coco_metrics(cosines + (bias / bank.scale).astype(np.float32), *ids, truth)
        for name, bias in added.items()
    }


def numbers(ids: np.ndarray) -> np.ndarray:
    try:
        return ids.astype(np.int64)
    except ValueError as error:
        raise ValueError(f"ids: expected COCO's numbers as strings ({error})") from None
