"""COCO's ground truth, and metrics of any model's similarity matrix, from files."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import read_json
from vacsr_jax.metrics.coco import FOLDS, CaptionTruth, Matches, Scores, coco_metrics
from vacsr_jax.safe_npz import read_npy

SETS = ("original", "cxc", "eccv")
TEST_IDS = "coco_test_ids.npy"


def read_caption_truth(folder: str | Path) -> CaptionTruth:
    """Reads the ground truth in the files of the public package `eccv_caption` (its folder `data`, MIT licence).

    The files are `{original,cxc,eccv}_{image_to_caption,caption_to_image}.json`, each an object of id -> list of ids,
    and `coco_test_ids.npy`, the caption ids in the order of the folds.

    Raises:
      ValueError: for a file that is missing or holds something else.
    """
    folder = Path(folder)
    names = [f"{s}_{d}.json" for s in SETS for d in ("image_to_caption", "caption_to_image")]
    missing = [name for name in [*names, TEST_IDS] if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: no {', '.join(missing)}; give the folder `data` of the Python package eccv_caption "
            "(pip download --no-deps eccv_caption==0.1.0, and unzip the wheel)"
        )
    matches = [_read_matches(folder / name) for name in names]
    test_ids = read_ids(folder / TEST_IDS)
    if set(test_ids.tolist()) != set(matches[1]) or len(test_ids) != len(matches[1]) or len(test_ids) % FOLDS:
        raise ValueError(
            f"{folder / TEST_IDS}: got {len(test_ids)} ids, expected the {len(matches[1])} captions of {names[1]}, "
            f"each once, a multiple of {FOLDS}"
        )
    _check_known(folder, names, matches)
    return CaptionTruth(test_ids, *(Matches(*matches[i : i + 2]) for i in (0, 2, 4)))


def _check_known(folder: Path, names: list[str], matches: list[dict[int, list[int]]]) -> None:
    """Checks that all queries, and all images that captions were written for, are original images and captions."""
    images, captions = matches[:2]
    asked: dict[str, tuple[Iterable[int], Container[int]]] = {
        names[1]: ([i for ids in captions.values() for i in ids], images)
    }
    asked |= {names[n]: (matches[n], (images, captions)[n % 2]) for n in range(2, len(names))}
    for name, (ids, known) in asked.items():
        strange = next((i for i in ids if i not in known), None)
        if strange is not None:
            raise ValueError(f"{folder / name}: id {strange} is neither in {names[0]} nor in {names[1]}")


def _read_matches(path: Path) -> dict[int, list[int]]:
    try:
        matches = {int(query): [int(i) for i in ids] for query, ids in read_json(path).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: expected an object of id -> list of ids ({error})") from None
    empty = [query for query, ids in matches.items() if not ids]
    if empty:
        raise ValueError(f"{path}: id {empty[0]} has no match; leave it out")
    return matches


def read_ids(path: str | Path) -> np.ndarray:
    """Reads integer ids, int64 [n], from a .npy vector, a .json list, or a text file with one id per line.

    Raises:
      ValueError: if it holds anything else; the message names the first entry that is not an integer.
    """
    path = Path(path)
    if path.suffix == ".npy":
        ids = read_npy(path)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"{path}: got {ids.dtype} {list(ids.shape)}, expected a vector of integers")
        return np.asarray(ids, np.int64)
    entries = read_json(path) if path.suffix == ".json" else _read_text(path).split()
    if not isinstance(entries, list):
        raise ValueError(f"{path}: got {type(entries).__name__}, expected a JSON list of ids")
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, bool) or not isinstance(entry, int | str) or not str(entry).strip().isdecimal():
            raise ValueError(f"{path}: entry {number} is {entry!r}, expected an integer id")
    numbers = [int(entry) for entry in entries]
    if any(i >= 2**63 for i in numbers):
        raise ValueError(f"{path}: {max(numbers)} is too large for a 64-bit integer")
    return np.array(numbers, np.int64)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from None


def score_files(similarity: str, image_ids: str, caption_ids: str, ground_truth: str) -> Scores:
    """`coco_metrics` of a matrix and ids that are read from files."""
    truth = read_caption_truth(ground_truth)
    return coco_metrics(read_npy(similarity, mapped=True), read_ids(image_ids), read_ids(caption_ids), truth)


def flat_metrics(scores: Scores) -> dict[str, float]:
    """`i2t/name` and `t2i/name`, and as `name` the value in the tables: the mean of both, or for an rsum their sum."""
    by_direction = {f"{d}/{name}": x[d] for d in ("i2t", "t2i") for name, x in scores.items()}
    return by_direction | {name: both for name, _, _, both in metric_table(scores)}


def metric_table(scores: Scores) -> list[list]:
    """Rows of name, i2t, t2i and their mean (for an rsum their sum), as published tables print them."""
    return [[name, x["i2t"], x["t2i"], x.get("sum", (x["i2t"] + x["t2i"]) / 2)] for name, x in scores.items()]
