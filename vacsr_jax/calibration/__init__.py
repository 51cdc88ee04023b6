"""The probability that a pair is a match, for any model: sigmoid(a score + b), with a and b fitted to data."""

from vacsr_jax.calibration.calibration import CALIBRATION, Calibration
from vacsr_jax.calibration.labelled import fit_labelled
from vacsr_jax.calibration.pairs import fit_pairs

__all__ = ["CALIBRATION", "Calibration", "fit_labelled", "fit_pairs"]
