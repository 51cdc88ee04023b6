"""COCO 1K and 5K, Crisscrossed Captions and ECCV Caption, from one similarity matrix of COCO's test split.

On a matrix without ties every number equals that of the public package `eccv_caption` (Chun et al. 2022) to the last
digit. Ties are pessimistic, as everywhere in this library: among equal scores a negative ranks first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vacsr_jax.metrics.retrieval import RSUM_KS, PositiveRanks

FOLDS = 5
_BLOCK_ENTRIES = 10_000_000  # number of scores that are sorted at once

Scores = dict[str, dict[str, float]]
Ids = Sequence[int] | np.ndarray


class Matches(NamedTuple):
    """The ids of each query id's positives, in both directions. The two directions may differ."""

    i2t: Mapping[int, Sequence[int]]
    t2i: Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class CaptionTruth:
    """The ground truth of a test split. The queries are the keys; the gallery is always the whole split.

    Attributes:
      test_ids: int64 [captions], caption ids. Five equal parts, in this order, are the folds of "1K".
      original: the captions written for each image: 5,000 x 25,000 in COCO.
      cxc: pairs that people rated 3 or more of 5 (Parekh et al. 2021). Captions without such a pair are not queries.
      eccv: pairs among the best of five models that people judged to match (Chun et al. 2022); 1,261 and 1,332 queries.
    """

    test_ids: np.ndarray
    original: Matches
    cxc: Matches
    eccv: Matches


def coco_metrics(similarity: np.ndarray, image_ids: Ids, caption_ids: Ids, truth: CaptionTruth) -> Scores:
    """Computes every number of the usual COCO tables from the scores of all pairs.

    `similarity` [images, captions], larger is better, has any real dtype. It is read in blocks and may be
    memory-mapped. Rows and columns come in any order; the ids name them. Returns
    name -> {"i2t": x, "t2i": y}, means over queries in 0..1:

    - `coco_5k_r1`, `_r5`, `_r10`: whether a positive of `truth.original` is among the k best of the whole gallery.
    - `coco_1k_r1`, ...: the same within each of the five folds, averaged over folds.
    - `cxc_r1`, ...: positives of `truth.cxc`; only its keys are queries.
    - `eccv_map_at_r`: 1/R sum_{i <= R} [item i is a positive] P(i), with R the query's number of positives and P(i) the
      precision of the i best; `eccv_rprecision`: P(R); `eccv_r1`. R counts positives outside the gallery too.
    - `coco_1k_rsum` (the tables' RSUM) and `coco_5k_rsum`: 100 (R@1 + R@5 + R@10), with their "sum", at most 600.

    Raises:
      ValueError: for a wrong shape, an unknown, repeated or missing id, or NaN; the message says which.
    """
    images, captions = _check_ids(similarity, image_ids, caption_ids, truth)
    of_direction = {"i2t": (similarity, images, captions), "t2i": (similarity.T, captions, images)}
    result: Scores = {}
    for direction, (scores, rows, columns) in of_direction.items():
        sets = {name: getattr(getattr(truth, name), direction) for name in ("original", "cxc", "eccv")}
        ranks = _rank(scores, rows, columns, sets)
        found = _recalls("coco_1k", _fold_ranks(similarity, images, captions, direction, truth))
        found |= _recalls("coco_5k", [ranks["original"]]) | _recalls("cxc", [ranks["cxc"]])
        found |= _eccv(ranks["eccv"])
        for name, value in found.items():
            result.setdefault(name, {})[direction] = value
    for prefix in ("coco_1k", "coco_5k"):
        sums = {d: 100 * sum(result[f"{prefix}_r{k}"][d] for k in RSUM_KS) for d in of_direction}
        result[f"{prefix}_rsum"] = {**sums, "sum": sum(sums.values())}
    return result


def _fold_ranks(similarity, images, captions, direction: str, truth: CaptionTruth) -> Iterable[PositiveRanks]:
    """Yields the ranks within each fold: its captions, and the images they were written for."""
    for fold in np.split(truth.test_ids, FOLDS):
        fold_images = dict.fromkeys(image for c in fold for image in truth.original.t2i[int(c)])
        rows, columns = {i: n for n, i in enumerate(fold_images)}, {int(c): n for n, c in enumerate(fold)}
        part = similarity[[images[i] for i in rows]][:, [captions[c] for c in columns]]
        matches = getattr(truth.original, direction)
        if direction == "t2i":
            part, rows, columns = part.T, columns, rows
        yield _rank(part, rows, columns, {"": {query: matches[query] for query in rows}})[""]


def _recalls(prefix: str, folds: Iterable[PositiveRanks]) -> dict[str, float]:
    best = [_best_ranks(ranks) for ranks in folds]
    return {f"{prefix}_r{k}": float(np.mean([np.mean(b <= k) for b in best])) for k in RSUM_KS}


def _best_ranks(ranks: PositiveRanks) -> np.ndarray:
    """Returns the rank of each query's best positive; infinite if none is in the gallery."""
    best = np.full(len(ranks.n_positives), np.inf)
    first = ranks.nth == 1
    best[ranks.query[first]] = ranks.rank[first]
    return best


def eccv_precision(
    similarity: np.ndarray, image_ids: Ids, caption_ids: Ids, truth: CaptionTruth
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns, per direction, the rows (t2i: columns) [q] of ECCV Caption's queries, and their mAP@R [q].

    The mean of the latter is `eccv_map_at_r`. Arguments and errors as in `coco_metrics`.
    """
    images, captions = _check_ids(similarity, image_ids, caption_ids, truth)
    found = {}
    for direction, scores, places, columns in (
        ("i2t", similarity, images, captions),
        ("t2i", similarity.T, captions, images),
    ):
        matches = getattr(truth.eccv, direction)
        rows = np.array([places[query] for query in matches], np.int64)
        ranks = _rank(scores[rows], {query: n for n, query in enumerate(matches)}, columns, {"": matches})[""]
        found[direction] = rows, _precisions(ranks)[0]
    return found


def _eccv(ranks: PositiveRanks) -> dict[str, float]:
    mean_precision, last_precision = _precisions(ranks)
    means = {"eccv_map_at_r": np.mean(mean_precision), "eccv_rprecision": np.mean(last_precision)}
    return {name: float(x) for name, x in means.items()} | {"eccv_r1": float(np.mean(_best_ranks(ranks) <= 1))}


def _precisions(ranks: PositiveRanks) -> tuple[np.ndarray, np.ndarray]:
    """Returns mAP@R and R-Precision of each query (Musgrave et al. 2020), with the package's order of rounding."""
    starts = np.searchsorted(ranks.query, np.arange(len(ranks.n_positives) + 1))
    mean_precision, last_precision = [], []
    for query, n in enumerate(ranks.n_positives):
        inside = ranks.rank[starts[query] : starts[query + 1]]
        hit = np.zeros(n)
        hit[inside[inside <= n] - 1] = 1
        r = np.arange(1, n + 1)
        precision = 1 - (r - np.cumsum(hit)) / r  # not hits / r, which differs in the last digit
        mean_precision.append(np.mean(precision * hit))
        last_precision.append(precision[-1])
    return np.array(mean_precision), np.array(last_precision)


def _rank(scores, rows: dict[int, int], columns: dict[int, int], sets: Mapping[str, Mapping]) -> dict:
    """Ranks the positives of several ground truths, sorting each row of scores [queries, gallery] once.

    `rows` and `columns` map an id to its row or column. A rank is the number of negatives that score at least as high,
    plus the place among the query's own positives.
    """
    pairs = {name: _pairs(matches, rows, columns) for name, matches in sets.items()}
    row, column = (np.concatenate([getattr(p, part) for p in pairs.values()]) for part in ("row", "column"))
    value, at_least = _counts(scores, row, column)
    ends = np.cumsum([len(p.row) for p in pairs.values()])[:-1]
    parts = zip(pairs.items(), np.split(value, ends), np.split(at_least, ends), strict=True)
    return {name: _positive_ranks(p, v, count) for (name, p), v, count in parts}


class _Pairs(NamedTuple):
    query: np.ndarray  # index of the query among the set's queries, ascending
    row: np.ndarray
    column: np.ndarray
    n_positives: np.ndarray  # [queries], including positives outside the gallery


def _pairs(matches: Mapping[int, Sequence[int]], rows: dict[int, int], columns: dict[int, int]) -> _Pairs:
    positives = [dict.fromkeys(ids) for ids in matches.values()]
    triples = [
        (n, rows[query], columns[i])
        for n, (query, ids) in enumerate(zip(matches, positives, strict=True))
        for i in ids
        if i in columns
    ]
    query, row, column = np.array(triples, np.int64).reshape(-1, 3).T
    return _Pairs(query, row, column, np.array([len(ids) for ids in positives]))


def _counts(scores, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each pair's score, and the number of scores in its row that are at least as high (its own included)."""
    n_rows, n_columns = scores.shape
    value, at_least = np.empty(len(row)), np.empty(len(row), np.int64)
    order = np.argsort(row, kind="stable")
    bounds = np.searchsorted(row[order], np.arange(n_rows + 1))
    step = max(1, _BLOCK_ENTRIES // n_columns)
    for start in range(0, n_rows, step):
        block = np.ascontiguousarray(scores[start : start + step])
        if block.dtype not in (np.float32, np.float64):
            block = block.astype(np.float32 if block.dtype == np.float16 else np.float64)
        here = order[bounds[start] : bounds[min(start + step, n_rows)]]
        found = block[row[here] - start, column[here]]
        value[here] = found
        block = np.sort(block, axis=1)
        for r, ascending in enumerate(block, start):
            mine = slice(bounds[r] - bounds[start], bounds[r + 1] - bounds[start])
            at_least[here[mine]] = n_columns - np.searchsorted(ascending, found[mine], side="left")
    return value, at_least


def _positive_ranks(pairs: _Pairs, value: np.ndarray, at_least: np.ndarray) -> PositiveRanks:
    order = np.lexsort((-value, pairs.query))
    query, value, at_least = pairs.query[order], value[order], at_least[order]
    nth = np.arange(len(query)) - np.searchsorted(query, query) + 1
    # Of equal scores the last one's place says how many positives score at least as high.
    last = np.append((query[1:] != query[:-1]) | (value[1:] != value[:-1]), True)
    positives_at_least = nth[np.flatnonzero(last)][np.cumsum(last) - last]
    return PositiveRanks(query, at_least - positives_at_least + nth, nth, pairs.n_positives)


def _check_ids(similarity, image_ids, caption_ids, truth: CaptionTruth) -> tuple[dict[int, int], dict[int, int]]:
    """Each id's row or column; raises ValueError as `coco_metrics` says."""
    shape = (len(image_ids), len(caption_ids))
    if similarity.ndim != 2 or similarity.shape != shape:
        raise ValueError(
            f"similarity: got shape {list(similarity.shape)}, expected {list(shape)}: one row for each of "
            f"the {shape[0]} image ids, one column for each of the {shape[1]} caption ids"
        )
    if similarity.dtype.kind not in "fiu":
        raise ValueError(f"similarity: got dtype {similarity.dtype}, expected real numbers")
    images, captions = check_ids(image_ids, caption_ids, truth)
    _check_numbers(similarity, image_ids, caption_ids)
    return images, captions


def check_ids(image_ids: Ids, caption_ids: Ids, truth: CaptionTruth) -> tuple[dict[int, int], dict[int, int]]:
    """Each id's place; raises ValueError for an id that is unknown, repeated or missing."""
    images = _places("image ids", image_ids, truth.original.i2t)
    return images, _places("caption ids", caption_ids, truth.original.t2i)


def _places(name: str, ids: Ids, known: Mapping[int, Sequence[int]]) -> dict[int, int]:
    places: dict[int, int] = {}
    for n, i in enumerate(ids):
        if int(i) not in known:
            hint = "; keep the first five captions of each image" if name.startswith("caption") else ""
            raise ValueError(f"{name}: {i} (number {n + 1} of {len(ids)}) is not in the ground truth{hint}")
        if places.setdefault(int(i), n) != n:
            raise ValueError(f"{name}: {i} is number {places[int(i)] + 1} and again number {n + 1}; give each id once")
    missing = [i for i in known if i not in places]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of the {len(known)} in the ground truth are missing, the first is {missing[0]}; "
            "a ranking among fewer candidates is not comparable"
        )
    return places


def _check_numbers(similarity, image_ids, caption_ids) -> None:
    if similarity.dtype.kind != "f":
        return
    step = max(1, _BLOCK_ENTRIES // similarity.shape[1])
    for start in range(0, len(similarity), step):
        bad = np.isnan(similarity[start : start + step])
        if bad.any():
            r, c = np.argwhere(bad)[0]
            raise ValueError(
                f"similarity: row {start + r} (image {image_ids[start + r]}), column {c} (caption {caption_ids[c]}) "
                "is NaN; a ranking needs numbers"
            )
