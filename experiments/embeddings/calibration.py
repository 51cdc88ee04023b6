"""What a calibration from pairs alone finds on real CLIP features, with known numbers of wrong pairs."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import write_text
from vacsr_jax.calibration import fit_labelled, fit_pairs
from vacsr_jax.metrics.calibration import expected_calibration_error
from vacsr_jax.report.tables import format_table

NOISE = (0.0, 0.2, 0.5)
LABELS = (20, 50, 100, 200, 400)  # labelled pairs, half of them matches
DRAWS = 50


def run(options: argparse.Namespace) -> None:
    with np.load(Path(options.data) / "features.npz", allow_pickle=False) as file:
        cosines = file["image"].astype(np.float64) @ file["text"].T.astype(np.float64)
    text = f"{from_pairs(cosines)}\n\n{from_labels(cosines)}"
    write_text(Path(options.out) / "calibration.md", text + "\n")
    print(text)


def from_pairs(cosines: np.ndarray) -> str:
    """The fit with a share of wrong pairs, and the ECE of the right pairs' label, which the fit never sees."""
    n, rows = len(cosines), []
    for noise in NOISE:
        image_of = np.arange(n)
        wrong = np.arange(int(noise * n))
        image_of[wrong] = np.roll(wrong, 1)
        labels = np.zeros((n, n), bool)
        labels[image_of, np.arange(n)] = True
        fit = fit_pairs(cosines, labels)
        slope, _, intercept = np.sqrt(np.maximum(fit.covariance, 0))
        p, right = fit.probability(cosines), np.eye(n, dtype=bool)
        naive = fit_labelled(cosines.ravel(), labels.ravel()).probability(cosines)
        rows.append(
            [
                f"{100 * noise:.0f} %",
                f"{fit.slope:.1f} ± {slope:.1f}",
                f"{fit.intercept:.1f} ± {intercept:.1f}",
                fit.noise_rate,
                fit.propensity,
                float(p[right].mean()),
                float(naive[right].mean()),
                expected_calibration_error(p, right, equal_mass=True),
                expected_calibration_error(naive, right, equal_mass=True),
            ]
        )
    columns = [
        "wrong pairs",
        "a",
        "b",
        "found wrong",
        "labelled share",
        "mean p, right pairs",
        "naive",
        "ECE",
        "naive ",
    ]
    return format_table(rows, columns, digits=4)


def from_labels(cosines: np.ndarray) -> str:
    """The error of the probability by the number of labelled pairs, against a fit of all the others."""
    n, rng = len(cosines), np.random.default_rng(0)
    score = np.concatenate([np.diag(cosines), cosines[np.arange(n), np.roll(np.arange(n), 1)]])
    match = np.arange(2 * n) < n
    rows = []
    for size in LABELS:
        errors, ece, said = [], [], []
        for _ in range(DRAWS):
            half = [rng.permutation(np.flatnonzero(match == kind))[: size // 2] for kind in (True, False)]
            mine = np.concatenate(half)
            other = np.setdiff1d(np.arange(2 * n), mine)
            fit, rest = fit_labelled(score[mine], match[mine]), fit_labelled(score[other], match[other])
            errors.append(np.abs(fit.probability(score) - rest.probability(score)).max())
            ece.append(expected_calibration_error(fit.probability(score[other]), match[other], equal_mass=True))
            said.append(bool(fit.cautions(score[mine])))
        rows.append([f"{size}", float(np.mean(errors)), float(np.mean(ece)), float(np.mean(said))])
    return format_table(rows, ["labelled pairs", "largest error of p", "ECE", "says: too little"], digits=3)
