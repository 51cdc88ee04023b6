"""`vacsr evaluate-matrix`: the metrics of COCO's test split for any model's similarity matrix."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr evaluate-matrix --similarity=S.npy --image_ids=images.txt --caption_ids=captions.npy --ground_truth=eccv_caption/data --out=metrics.json

S.npy holds real numbers [5000 images, 25000 captions], larger is better; it is memory-mapped. The ids of its rows and
columns are COCO's integers, in any order: a .npy vector, a .json list, or a text file with one id per line. The ground
truth is the folder `data` of the Python package eccv_caption.

Writes {name: {"i2t": x, "t2i": y}}. In 0..1: coco_1k_r1, _r5, _r10, coco_5k_r1, ..., cxc_r1, ..., eccv_map_at_r,
eccv_rprecision, eccv_r1. In 0..300, with the sum of both directions: coco_1k_rsum (the tables' RSUM) and coco_5k_rsum.
The numbers equal that package's to the last digit, except for ties: among equal scores a wrong item ranks first."""  # noqa: E501  (a command on one line can be copied)

SUMMARY = "COCO, CxC and ECCV Caption metrics of a similarity matrix."
OLD_NAME = "The old name of evaluate-matrix; the next release removes it."


def register(verbs: Verbs) -> None:
    add_options(verbs.add("evaluate-matrix", run, SUMMARY, EXAMPLE))
    add_options(verbs.add("score", run_as_score, OLD_NAME, EXAMPLE))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--similarity", help="npy matrix [images, captions]", required=True)
    parser.add_argument("--image_ids", help="ids of the rows", required=True)
    parser.add_argument("--caption_ids", help="ids of the columns", required=True)
    parser.add_argument("--ground_truth", metavar="FOLDER", help="folder with the ground truth's files", required=True)
    parser.add_argument("--out", help="JSON file for the metrics", required=True)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.coco import metric_table, score_files
    from vacsr_jax.report.tables import format_table

    metrics = score_files(options.similarity, options.image_ids, options.caption_ids, options.ground_truth)
    write_text(Path(options.out), to_json(metrics))
    print(format_table(metric_table(metrics), ["metric", "i2t", "t2i", "mean or sum"], digits=4))


def run_as_score(options: argparse.Namespace, overrides: list[str]) -> None:
    print("note: `vacsr score` is now `vacsr evaluate-matrix`; the next release removes the old name", file=sys.stderr)
    run(options, overrides)
