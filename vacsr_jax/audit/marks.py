"""What people say of listed pairs, and probabilities recalibrated by it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

COLUMNS = ("list", "image_index", "caption_index", "mark")
LISTS = ("suspect_labels", "missing_matches")
FEW = 20  # marks of a list; fewer move its probabilities little, and that is said
SLOPE_ERROR, SHIFT_ERROR = 0.3, 2.0  # of the recalibration before there are marks


class Mark(NamedTuple):
    """A person's word on a pair: whether its caption is true of its image.

    `data` says which data it was given of: the first digits of their hash, or "" where a file does not say.
    """

    list: str
    image: int
    caption: int
    right: bool
    data: str = ""


def read_marks(path: str | Path) -> list[Mark]:
    """The marks that the page of an audit saves: a CSV with the columns list, image_index, caption_index, mark, data.

    The last one may be missing.

    Raises:
      ValueError: naming the line, if a column is missing, a field is none of its values, or two marks contradict each
        other; or if there is no mark.
    """
    found: dict[tuple, Mark] = {}
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"--marks: {path} has no column {', '.join(missing)}; give the file that the page of an audit saves "
                f"({', '.join(COLUMNS)})"
            )
        for row in reader:
            try:
                if row["list"] not in LISTS or row["mark"] not in ("right", "wrong"):
                    raise ValueError
                pair = row["list"], int(row["image_index"]), int(row["caption_index"])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}: line {reader.line_num}: got {[row[name] for name in COLUMNS]}, expected "
                    f"{' or '.join(LISTS)}, two whole numbers, and right or wrong"
                ) from None
            mark = Mark(*pair, row["mark"] == "right", row.get("data") or "")
            if found.setdefault(pair, mark).right != mark.right:
                raise ValueError(
                    f"--marks: {path}: line {reader.line_num}: image {pair[1]} with caption {pair[2]} is marked both "
                    "right and wrong; keep one of the lines"
                )
    if not found:
        raise ValueError(f"--marks: {path} holds no mark; mark items on the page of an audit and save them")
    return list(found.values())


def recalibrate(logit: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """(s, b), for which sigmoid(s logit + b) is the likeliest probability that gave `true` (bool [k]).

    Before there are marks, s is normal around 1 and b around 0, with standard deviations 0.3 and 2. A few marks
    therefore move little, and marks of one kind have an answer. s >= 0.05, so that no order changes.
    """
    logit, true = np.asarray(logit, np.float64), np.asarray(true, bool)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * logit + x[1]
        value = np.sum(np.logaddexp(0, np.where(true, -z, z)))
        slope = expit(z) - true
        away = (x - [1.0, 0.0]) / [SLOPE_ERROR, SHIFT_ERROR]
        gradient = np.array([slope @ logit, slope.sum()]) + away / [SLOPE_ERROR, SHIFT_ERROR]
        return value + 0.5 * away @ away, gradient

    s, b = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(0.05, 20), (-30, 30)]).x
    return float(s), float(b)
