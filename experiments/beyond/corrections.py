"""The entropy and its controls: one number per text, added to its scores when texts are ranked for an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.metrics.retrieval import RSUM_KS, average_precision_at_r, rank_positives, recall_at_k
from vacsr_jax.report.tables import format_table
from vacsr_jax.search.text_entropy import score_entropy

WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)
TEMPERATURES = (1.0, 0.5, 0.3, 0.2, 0.1)  # factors of the logits, where that is chosen too
NEIGHBOURS = 10  # of CSLS
FREE_SIGN = (
    "caption length",
    "true generality",
)  # which end is the general one is unknown, so the weight may be negative
LABELS = "labels"
NOTHING = "nothing"
Units = dict[str, dict[str, np.ndarray]]  # row -> metric -> [units], images or seeds in one order


@dataclasses.dataclass(frozen=True)
class Scored:
    """A frozen model's scores of texts, with the images that they are ranked for and with a bank of other images.

    Attributes:
      scores: logits [n, m] of n images and m texts.
      bank: logits [b, m] of the bank's images and the same texts.
      truths: name -> bool [n, m]. "labels" are the pairs as collected; the others say what is true.
      lengths: number of words of each text [m].
      generality: log of how many images each text is true of, for the oracle [m].
    """

    scores: np.ndarray
    bank: np.ndarray
    truths: Mapping[str, np.ndarray]
    lengths: np.ndarray
    generality: np.ndarray


def biases(x: Scored) -> dict[str, np.ndarray]:
    """Returns name -> bias [m], in logits, as published with weight 1.

    The text's half of CSLS is minus half the mean of its 10 best scores over the bank (Lample et al. 2018); the image's
    half changes no ranking here. The text's half of the inverted softmax is minus the log of its sum over the bank
    (Smith et al. 2017). Length and true generality have no scale, so they are in standard deviations of the scores.
    """
    spread = x.scores.std()
    unit = lambda y: spread * (y - y.mean()) / max(y.std(), 1e-9)  # noqa: E731
    return {
        "entropy": entropy(x),
        "CSLS": -np.sort(x.bank, axis=0)[-NEIGHBOURS:].mean(axis=0) / 2,
        "inverted softmax": -logsumexp(x.bank, axis=0),
        "caption length": unit(-x.lengths.astype(np.float64)),
        "true generality": unit(x.generality),
    }


def entropy(x: Scored, temperature: float = 1.0) -> np.ndarray:
    """Entropy H of the softmax of temperature x logits over the bank, in logits: H / temperature."""
    return np.asarray(score_entropy(temperature * x.bank), np.float64) / temperature


def corrections(validation: Scored, test: Scored, truth: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields row name and bias [m] of the test texts. Weights are chosen on validation pairs, by labels or a truth."""
    here, there = biases(validation), biases(test)
    yield NOTHING, np.zeros(test.scores.shape[1])
    for name in ("entropy", "CSLS", "inverted softmax"):
        yield f"{name}, w 1", there[name]
    free = {t: entropy(validation, t) for t in TEMPERATURES}
    for by in (LABELS, truth):
        for name in here:
            weights = (*WEIGHTS, *(-w for w in WEIGHTS[1:])) if name in FREE_SIGN else WEIGHTS
            yield f"{name}, w by {by}", choose(validation, here[name], by, weights)[0] * there[name]
        found = {t: choose(validation, bias, by) for t, bias in free.items()}
        t = max(found, key=lambda t: found[t][1])
        yield f"entropy, temperature and w by {by}", found[t][0] * entropy(test, t)


def choose(x: Scored, bias: np.ndarray, by: str, weights: Sequence[float] = WEIGHTS) -> tuple[float, float]:
    """Returns the weight that ranks best (the first of equals) and its value.

    The value is R@1 + R@5 + R@10 for labels, mAP@R for a truth.
    """
    positives = x.truths[by]

    def value(scores):
        if by == LABELS:
            return sum(recall_at_k(scores, positives, RSUM_KS).values())
        return float(np.mean(average_precision_at_r(scores, positives)))

    found = {w: value(x.scores + w * bias) for w in weights}
    best = max(found, key=found.get)
    return best, found[best]


def per_image(scores: np.ndarray, truths: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns metric -> [n], NaN for an image without a positive: recalls against labels, mAP@R against each truth."""
    found = {}
    for name, positives in truths.items():
        asked = positives.any(axis=1)

        def fill(values, asked=asked):
            line = np.full(len(asked), np.nan)
            line[asked] = values
            return line

        if name == LABELS:
            ranks = rank_positives(scores, positives)
            best = ranks.rank[ranks.nth == 1]
            found |= {f"R@{k}": fill(best <= k) for k in RSUM_KS}
        else:
            found[f"mAP@R {name}"] = fill(average_precision_at_r(scores, positives))
    return found


def both_directions(x: Scored, bias: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `per_image` in both directions: as i2t, and per text as t2i."""
    scores = x.scores + bias
    turned = {name: positives.T for name, positives in x.truths.items()}
    i2t, t2i = per_image(scores, x.truths), per_image(scores.T, turned)
    return {f"i2t {name}": y for name, y in i2t.items()} | {f"t2i {name}": y for name, y in t2i.items()}


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of independent values, ignoring NaN."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else float("nan")


def report(out: str | Path, name: str, tables: Mapping[str, Units], metrics: Sequence[str]) -> None:
    """Writes mean and standard error of every metric, and prints a table per title.

    A table shows the named metrics, and for i2t metrics the paired gain over nothing.
    """
    values = {
        title: {row: {m: mean_error(x) for m, x in found.items()} for row, found in units.items()}
        for title, units in tables.items()
    }
    write_text(Path(out) / f"{name}.json", to_json(values))
    gained = [m for m in metrics if m.startswith("i2t")]
    for title, units in tables.items():
        rows = []
        for row, found in units.items():
            gains = [None if row == NOTHING else mean_error(found[m] - units[NOTHING][m]) for m in gained]
            rows.append([row, *(mean_error(found[m]) for m in metrics), *gains])
        columns = ["", *metrics, *(f"gain in {m}" for m in gained)]
        print(f"\n{title}\n\n{format_table(rows, columns, markdown=True)}")
