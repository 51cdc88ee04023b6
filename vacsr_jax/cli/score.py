"""`vacsr score`: the metrics of COCO's test split for any model's similarity matrix."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """example:
  vacsr score --similarity=S.npy --image_ids=images.txt --caption_ids=captions.npy --ground_truth=eccv_caption/data --out=metrics.json

S.npy holds real numbers [5000 images, 25000 captions], larger is better; it is memory-mapped. Ids of its rows and
columns: COCO's integers, a .npy vector, a .json list, or a text file with one a line; any order. The ground truth is the
folder `data` of the Python package eccv_caption. Writes {name: {"i2t": x, "t2i": y}} with the names coco_1k_r1, _r5,
_r10, coco_5k_r1, ..., cxc_r1, ..., eccv_map_at_r, eccv_rprecision, eccv_r1 in 0..1, and coco_1k_rsum (the
tables' RSUM) and coco_5k_rsum in 0..300 with their sum. Equal to that package's numbers to the last digit, but for ties: among equal scores a wrong item
ranks first."""  # noqa: E501  (a command on one line can be copied)


def register(verbs) -> None:
    score = verbs.add("score", run_score, "COCO, CxC and ECCV Caption metrics of a similarity matrix.", EXAMPLE)
    score.add_argument("--similarity", help="npy matrix [images, captions]", required=True)
    score.add_argument("--image_ids", help="ids of the rows", required=True)
    score.add_argument("--caption_ids", help="ids of the columns", required=True)
    score.add_argument("--ground_truth", metavar="FOLDER", help="folder with the ground truth's files", required=True)
    score.add_argument("--out", help="JSON file for the metrics", required=True)


def run_score(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.coco import metric_table, score_files
    from vacsr_jax.report.tables import format_table

    scores = score_files(options.similarity, options.image_ids, options.caption_ids, options.ground_truth)
    write_text(Path(options.out), to_json(scores))
    print(format_table(metric_table(scores), ["metric", "i2t", "t2i", "mean or sum"], digits=4))
