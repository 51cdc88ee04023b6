"""Calibration by pairs that people have labelled as match or no match."""

from __future__ import annotations

import numpy as np

from vacsr_jax.calibration.calibration import LABELLED, Calibration

FOLDS = 5
STEPS = 100


def fit_labelled(score: np.ndarray, match: np.ndarray) -> Calibration:
    """Platt scaling: the logistic regression of `match` (bool [n]) on `score` [n].

    The targets are (N+ + 1) / (N+ + 2) and 1 / (N- + 2) in place of 1 and 0 (Platt 1999), so that separable pairs have
    a finite fit too.

    Raises:
      ValueError: if the lengths differ, a score is not finite, or there is no match, or nothing else.
    """
    score, match = np.asarray(score, np.float64).ravel(), np.asarray(match).ravel()
    if score.shape != match.shape or match.dtype != bool:
        raise ValueError(f"labels: got {match.dtype} {list(match.shape)} for {len(score)} scores, expected bool, alike")
    if not np.isfinite(score).all():
        raise ValueError("labels: a score is not finite")
    positives = int(match.sum())
    if not 0 < positives < len(match):
        raise ValueError(f"labels: {positives} of {len(match)} pairs are matches, expected some of both kinds")
    slope, intercept, covariance = logistic(score, match)
    prior = float(np.mean(1 / (1 + np.exp(-(slope * score + intercept)))))
    return Calibration(slope, intercept, covariance, LABELLED, len(score), positives, prior)


def out_of_fold(score: np.ndarray, match: np.ndarray, seed: int = 0) -> np.ndarray:
    """The probability of each pair by a fit of the other four fifths, stratified by label; [n]."""
    score, rng = np.asarray(score, np.float64), np.random.default_rng(seed)
    fold = np.empty(len(score), int)
    for label in (False, True):
        mine = rng.permutation(np.flatnonzero(match == label))
        fold[mine] = np.arange(len(mine)) % FOLDS
    found = np.empty(len(score))
    for k in range(FOLDS):
        here, there = fold == k, fold != k
        if here.any():
            found[here] = fit_labelled(score[there], match[there]).probability(score[here])
    return found


def logistic(score: np.ndarray, match: np.ndarray) -> tuple[float, float, tuple[float, float, float]]:
    """Slope, intercept and their covariance by Newton's method on the standardized score."""
    centre, spread = float(score.mean()), float(score.std()) or 1.0
    x = np.stack([(score - centre) / spread, np.ones_like(score)], axis=1)
    positives = match.sum()
    target = np.where(match, (positives + 1) / (positives + 2), 1 / (len(match) - positives + 2))
    w = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ w)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (target - p))
        w = w + step / max(1.0, float(np.abs(step).max()) / 2)  # a long step may overshoot
        if np.abs(step).max() < 1e-10:
            break
    back = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])  # from the standardized score to the score
    slope, intercept = back @ w
    p = 1 / (1 + np.exp(-(x @ w)))
    covariance = back @ np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)) @ back.T
    return float(slope), float(intercept), (float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1]))
