"""An audit as a whole: judges, what they saw, probabilities, counts with intervals, and how far to trust them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from vacsr_jax.audit.judge import Judge, Labelled
from vacsr_jax.audit.label_model import LabelModel, fit_noise, label_share, match_logit, wrong_logit
from vacsr_jax.audit.marks import FEW, LISTS, Mark, recalibrate
from vacsr_jax.audit.stream import Seen, look

Z95 = 1.96
TINY = 1e-38  # the least positive number of float32, about
FEW_LABELS = 200
WIDE = 0.15  # an interval of the share of wrong labels that is wider says little
MODEL_ERROR = 0.06  # of the log number of missing matches: how far off it was on scenes (experiments/audit)
MOST = 0.8  # a share of wrong labels above this says more about the model than about the data
SHAPELESS = -1.9  # a log alpha below this: the fit found no use for the match logit


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, x: float) -> Estimate:
        return Estimate(self.value * x, self.low * x, self.high * x)

    def at_most(self, x: float) -> Estimate:
        return Estimate(min(self.value, x), min(self.low, x), min(self.high, x))


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an audit found.

    Attributes:
      data: the data with their labels.
      wrong: [m] logit p_wrong of each caption's label; minus infinity where no image has been judged.
      better: [3, m] images to which each caption would rather belong, the best first; -1: none.
      missing, missing_logit: the likeliest unlabelled matches (image, caption) [k, 2] and their logit p_match.
      histogram: of p_match over all unlabelled pairs, in equal bins.
      share: the share of wrong labels.
      expected: the number of unlabelled matches.
      cautions: why to trust it less, in sentences.
      marks: how many marks the probabilities were recalibrated by.
    """

    data: Labelled
    wrong: np.ndarray
    better: np.ndarray
    missing: np.ndarray
    missing_logit: np.ndarray
    histogram: np.ndarray
    share: Estimate
    expected: Estimate
    cautions: list[str]
    marks: int = 0

    @property
    def p_wrong(self) -> np.ndarray:
        """[m]"""
        return expit(self.wrong)

    @property
    def p_match(self) -> np.ndarray:
        """[k]"""
        return expit(self.missing_logit)

    @property
    def worst(self) -> np.ndarray:
        """The captions, those with the likeliest wrong labels first; int64 [m]."""
        return np.argsort(-self.wrong, kind="stable")


def audit(judges: Sequence[Judge], most: int, marks: Sequence[Mark] = ()) -> Findings:
    """Judges every pair of images and captions; lists the `most` likeliest unlabelled matches.

    Raises:
      ValueError: if there are too few images, a model does not tell a match from a label, or a mark does not fit.
    """
    data = judges[0].data
    fits = [judge.fit() for judge in judges]
    seen = Seen.nothing(len(data.image_of), most)
    for judge, fitted in zip(judges, fits, strict=True):
        look(judge, fitted, seen)
    n = len(data.source)
    known = ~np.isnan(seen.right)
    share = label_share(*(np.log(np.maximum(x[known], TINY)) for x in (seen.right, seen.total)))
    noise, error = fit_noise(share, n, data.image_of[known])
    wrong = np.full(len(known), -np.inf)
    wrong[known] = wrong_logit(noise, n, share)
    odds, missing = seen.best.sorted()
    errors = np.array([x.among(n).missing_error() for x in fits])
    weights = np.array([len(judge.rows) for judge in judges]) / sum(len(judge.rows) for judge in judges)
    factor = missing_factor(np.sqrt(np.sum((weights * errors) ** 2)))
    found = Findings(
        data=data,
        wrong=wrong,
        better=np.where(seen.better_right > np.nan_to_num(seen.right), seen.better, -1),
        missing=missing,
        missing_logit=np.log(odds.astype(np.float64)),
        histogram=seen.histogram,
        share=(estimate := share_of(noise, error, fits)),
        expected=Estimate(seen.expected, seen.expected / factor, seen.expected * factor),
        cautions=cautions(estimate, fits, data),
    )
    found = marked(found, fits, marks) if marks else found
    pairs = n * len(data.image_of) - len(data.image_of)
    return dataclasses.replace(found, share=found.share.at_most(1.0), expected=found.expected.at_most(pairs))


def missing_factor(error: float) -> float:
    """The end of the 95 % interval of the number of missing matches over the estimate, from its log standard error.

    The error of the fit comes from the labels alone. That the form of the label model is not quite that of the data is
    in `MODEL_ERROR`.
    """
    return float(np.exp(Z95 * np.hypot(error, MODEL_ERROR)))


def share_of(noise: float, error: float, fits: Sequence[LabelModel]) -> Estimate:
    """The share of wrong labels from its log odds; the interval is symmetric in these.

    Its error is that of all labels, or that of the judges' fits to a sample of them, whichever is larger.
    """
    weights = np.array([x.sample.labelled.sum() for x in fits], float)
    weights /= weights.sum()
    of_fits = np.sqrt(np.sum((weights * np.array([x.noise_error for x in fits])) ** 2))
    low, high = expit(noise + np.array([-Z95, Z95]) * max(error, of_fits))
    return Estimate(float(expit(noise)), float(low), float(high))


def cautions(share: Estimate, fits: Sequence[LabelModel], data: Labelled) -> list[str]:
    """Sentences about data that are too few, or that the model has no use for."""
    found, labels = [], len(data.image_of)
    if labels < FEW_LABELS:
        found.append(f"{labels} labels are too few to say how many are wrong: give {FEW_LABELS} or more")
    if share.high - share.low > WIDE:
        found.append(f"the share of wrong labels is only known to lie between {share.low:.2f} and {share.high:.2f}")
    if share.value > MOST:
        found.append("most labels look wrong: the model knows too little of such data, or the captions are of others")
    if any(x.theta[0] < SHAPELESS for x in fits):
        found.append("the model's scores say next to nothing about these labels: the lists are close to chance")
    return found


def marked(found: Findings, fits: Sequence[LabelModel], marks: Sequence[Mark]) -> Findings:
    """The findings with both probabilities, and the counts, recalibrated by marks.

    Raises:
      ValueError: if a mark is of other data, or of a label that the data do not have.
    """
    digest = data_hash(found.data)
    if not all(digest.startswith(mark.data) for mark in marks):
        raise ValueError("--marks: these marks are of other data or another split; give those of an audit of these")
    image_of, used, notes = found.data.image_of, 0, list(found.cautions)
    place = {(int(i), int(j)): k for k, (i, j) in enumerate(found.missing)}
    values: dict[str, Any] = {}
    for name in LISTS:
        mine = [mark for mark in marks if mark.list == name]
        logits: np.ndarray
        true: list[bool]
        if name == LISTS[0]:
            for mark in mine:
                if not 0 <= mark.caption < len(image_of) or image_of[mark.caption] != mark.image:
                    raise ValueError(
                        f"--marks: caption {mark.caption} is not labelled with image {mark.image} in these data; give "
                        "the marks of an audit of the same data and split"
                    )
            logits, true = found.wrong[[mark.caption for mark in mine]], [not mark.right for mark in mine]
        else:
            known = [mark for mark in mine if (mark.image, mark.caption) in place]
            if len(known) < len(mine):
                notes.append(f"{len(mine) - len(known)} marked matches are no longer listed and were not used")
            mine = known
            logits = found.missing_logit[[place[mark.image, mark.caption] for mark in mine]]
            true = [mark.right for mark in mine]
        if not mine:
            continue
        used += len(mine)
        s, b = recalibrate(logits, np.array(true))
        if len(mine) < FEW:
            notes.append(f"{len(mine)} marks of {name} move its probabilities little: give {FEW} or more")
        if name == LISTS[0]:
            after = np.where(np.isfinite(found.wrong), s * found.wrong + b, -np.inf)
            ratio = expit(after).mean() / expit(found.wrong).mean()
            values |= {"wrong": after, "share": found.share.times(min(ratio, 1 / found.share.value))}
        else:
            ratio = missing_ratio(fits, len(found.data.source), s, b)
            values |= {"missing_logit": s * found.missing_logit + b, "expected": found.expected.times(ratio)}
    return dataclasses.replace(found, **values, cautions=notes, marks=used)


def missing_ratio(fits: Sequence[LabelModel], n: int, s: float, b: float) -> float:
    """The sum of the recalibrated p_match over that of p_match, in the pairs that the judges were fitted to."""
    before = after = 0.0
    for fit in fits:
        free = ~fit.sample.labelled
        z = match_logit(fit.among(n).theta, n, fit.sample.a[free], fit.sample.h[free])
        before += fit.sample.weights[free] @ expit(z)
        after += fit.sample.weights[free] @ expit(s * z + b)
    return after / before


def data_hash(data: Labelled) -> str:
    """sha256 of the ids, captions and labels, in order."""
    digest = hashlib.sha256()
    for text in (*map(str, data.source.ids), *(text for own in data.source.captions for text in own)):
        digest.update(text.encode() + b"\0")
    digest.update(np.asarray(data.image_of, "<i8").tobytes())
    return digest.hexdigest()
