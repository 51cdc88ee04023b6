"""What a calibration is, and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import read_json, to_json, write_text

CALIBRATION = "calibration.json"  # in a workdir or an export
LABELLED, PAIRS = "labelled pairs", "image-text pairs"
FEW = 50  # labelled matches, or non-matches, below which a fit is called rough
WIDE = 0.15  # a standard error of the probability above which a fit is called rough
Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Calibration:
    """P(match) = sigmoid(slope x logit + intercept), where logit is that of `Pretrained.score`.

    Attributes:
      slope, intercept: the fit.
      covariance: of slope and intercept: var(slope), cov, var(intercept).
      fitted_on: "labelled pairs" or "image-text pairs".
      pairs, matches: how many pairs, and how many of them are labelled matches.
      prior: the mean probability of those pairs. Where matches are rarer, the probability is too large.
      noise_rate: of image-text pairs: the share of wrong labels; else None.
      propensity: of image-text pairs: the share of matches that are labelled; else None.
      ece: the expected calibration error on pairs that the fit did not see.
      step: the checkpoint's step, of a workdir; else None.
    """

    slope: float
    intercept: float
    covariance: tuple[float, float, float]
    fitted_on: str
    pairs: int
    matches: int
    prior: float
    noise_rate: float | None = None
    propensity: float | None = None
    ece: float | None = None
    step: int | None = None

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """The match probability of logits of any shape, in their type."""
        x = np.asarray(self.slope * logit + self.intercept, np.asarray(logit).dtype)
        small = np.exp(-np.abs(x))
        return np.where(x >= 0, 1, small) / (1 + small)

    def standard_error(self, logit: np.ndarray) -> np.ndarray:
        """The standard error of the probability that comes from the fit (delta method)."""
        slope, both, intercept = self.covariance
        variance = slope * logit**2 + 2 * both * logit + intercept
        p = self.probability(logit)
        return p * (1 - p) * np.sqrt(np.maximum(variance, 0))

    @property
    def meaning(self) -> str:
        return f"that the pair is a match, calibrated on {self.pairs:,} {self.fitted_on}"

    def cautions(self, logit: np.ndarray) -> list[str]:
        """Sentences about too little data, for these logits."""
        found = []
        rarer, kind = min((self.matches, "matches"), (self.pairs - self.matches, "pairs that are no match"))
        if rarer < FEW:
            found.append(f"only {rarer} {kind}: give {FEW} or more")
        widest = float(np.max(self.standard_error(logit)))
        if not widest <= WIDE:
            found.append(f"the probability of some pairs is known to ± {Z95 * widest:.2f} only (95 %): give more pairs")
        if self.slope <= 0:
            found.append("a higher score does not mean a likelier match in these pairs: the fit is worth nothing")
        return found

    def save(self, folder: str | Path) -> None:
        write_text(Path(folder) / CALIBRATION, to_json(dataclasses.asdict(self)))


def read_calibration(folder: str | Path) -> Calibration | None:
    """The calibration in a folder, or None.

    Raises:
      ValueError: if the file is damaged.
    """
    path = Path(folder) / CALIBRATION
    if not path.is_file():
        return None
    values, names = read_json(path), [field.name for field in dataclasses.fields(Calibration)]
    try:
        found = Calibration(**{**values, "covariance": tuple(map(float, values["covariance"]))})
        if len(found.covariance) != 3 or not np.isfinite([found.slope, found.intercept, *found.covariance]).all():
            raise ValueError("a number is missing or not finite")
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); expected {', '.join(names)}; run `vacsr calibrate` again"
        ) from error
    return found
