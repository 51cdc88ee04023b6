"""Writes the lists of an audit as CSV files, and its numbers as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.audit.duplicates import Duplicates
from vacsr_jax.audit.findings import Estimate, Findings
from vacsr_jax.data.source import caption_pairs

SUSPECT, MISSING, DUPLICATES, SUMMARY = "suspect_labels.csv", "missing_matches.csv", "duplicates.csv", "summary.json"
LABEL = ("image_index", "image_id", "caption_index", "caption")


def write_lists(folder: Path, found: Findings, duplicates: Duplicates | None, summary: dict[str, Any]) -> None:
    """Writes the four files, each whole or not at all.

    suspect_labels.csv has every label, the likeliest wrong one first. `better_image_indices` and `better_image_ids` are
    JSON lists of up to three images that the caption would rather belong to, the best first.
    """
    ids, captions = found.data.source.ids, caption_pairs(found.data.source)[0]

    def pair(image: int, caption: int) -> tuple:
        return image, ids[image], caption, captions[caption]

    labels = []
    p_wrong = found.p_wrong
    for j in found.worst:
        better = [int(i) for i in found.better[:, j] if i >= 0]
        named = json.dumps([str(ids[i]) for i in better], ensure_ascii=False)
        image = int(found.data.image_of[j])
        labels.append((*pair(image, int(j)), f"{p_wrong[j]:.6f}", json.dumps(better), named))
    matches = ((*pair(int(i), int(j)), f"{p:.6f}") for (i, j), p in zip(found.missing, found.p_match, strict=True))
    write_csv(folder / SUSPECT, (*LABEL, "p_wrong", "better_image_indices", "better_image_ids"), labels)
    write_csv(folder / MISSING, (*LABEL, "p_match"), matches)
    if duplicates is not None:
        columns = ("kind", "first_index", "first", "second_index", "second", "similarity")
        write_csv(folder / DUPLICATES, columns, duplicate_rows(duplicates, ids, captions))
    write_text(folder / SUMMARY, to_json(summary))


def duplicate_rows(duplicates: Duplicates, ids: Sequence[str], captions: Sequence[str]) -> Iterable[tuple]:
    kinds = (
        ("image", duplicates.images, duplicates.image_similarity, ids),
        ("caption", duplicates.captions, duplicates.caption_similarity, captions),
    )
    for kind, pairs, similarity, names in kinds:
        for (i, j), x in zip(pairs, similarity, strict=True):
            yield kind, int(i), names[int(i)], int(j), names[int(j)], f"{x:.4f}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV in UTF-8, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def summary_of(found: Findings, duplicates: Duplicates | None) -> dict[str, Any]:
    """The numbers of an audit as plain values."""
    n, m = len(found.data.source), len(found.data.image_of)
    counted = None
    if duplicates is not None:
        counted = {"images": len(duplicates.images), "captions": len(duplicates.captions)}
    return {
        "images": n,
        "labels": m,
        "unlabelled_pairs": n * m - m,
        "wrong_labels": {"share": as_dict(found.share), "number": as_dict(found.share.times(m))},
        "missing_matches": {"expected": as_dict(found.expected), "listed": len(found.missing)},
        "duplicates": counted,
        "marks": found.marks,
        "cautions": found.cautions,
    }


def as_dict(x: Estimate) -> dict[str, float]:
    return {"estimate": x.value, "low": x.low, "high": x.high}


def chosen(found: Findings, drop: float | None, add: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The labels with p_wrong >= `drop` and the listed pairs with p_match >= `add`, as (image, caption) [k, 2]."""
    captions = found.worst if drop is not None else np.empty(0, np.int64)
    captions = captions[found.p_wrong[captions] >= drop] if drop is not None else captions
    dropped = np.stack([found.data.image_of[captions], captions], axis=1)
    added = found.missing[found.p_match >= add] if add is not None else np.empty((0, 2), np.int64)
    return dropped, added
