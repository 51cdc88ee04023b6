"""Compares an audit with the truth: which labels are wrong, which unlabelled pairs match, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit, logsumexp

from experiments.embeddings.runs import auroc
from vacsr_jax.audit.findings import missing_factor, share_of
from vacsr_jax.audit.judge import Judge
from vacsr_jax.audit.label_model import fit_noise, label_share, match_logit, right_logit, wrong_logit
from vacsr_jax.metrics.calibration import expected_calibration_error

FIRST = (500, 2500, 10_000)


def judged(judge: Judge) -> dict:
    """An audit of a small set with all its pairs in memory: p_match [n, m], p_wrong [m], and the counts."""
    n, m = len(judge.data.source), len(judge.data.image_of)
    fitted = judge.fit().among(n)
    rows = np.arange(n)
    a, h = judge.parts(judge.image_items(rows), judge.text_items(np.arange(m)))
    place = (judge.data.image_of, np.arange(m))
    z = match_logit(fitted.theta, n, a.astype(np.float64), h.astype(np.float64))
    free = np.ones((n, m), bool)
    free[place] = False
    right = right_logit(fitted.theta, a, h)
    log_r = label_share(right[place], logsumexp(right, axis=0))
    noise, error = fit_noise(log_r, n, judge.data.image_of)
    share = share_of(noise, error, [fitted])
    expected, factor = float(expit(z[free]).sum()), missing_factor(fitted.missing_error())
    return {
        "match": z,
        "wrong": wrong_logit(noise, n, log_r),
        "scores": {"match logit": a, "label score": right},
        "share": (share.value, share.low, share.high),
        "expected": (expected, expected / factor, expected * factor),
    }


def of_labels(score: np.ndarray, wrong: np.ndarray, untrue: np.ndarray, p: np.ndarray | None = None) -> dict:
    """How well a score [m] tells wrong labels (bool [m]) from right ones.

    `untrue`: those of the wrong ones whose caption is not true of the image by chance, which nothing could tell.
    """
    found = {}
    if wrong.any():
        order = np.argsort(-score, kind="stable")
        found = {
            "AUROC": auroc(score[wrong], score[~wrong]),
            "AUROC, untrue": auroc(score[untrue], score[~wrong]),
            "precision": float(wrong[order[: wrong.sum()]].mean()),
            "first tenth": float(wrong[order[: max(1, wrong.sum() // 10)]].mean()),
            "AP": average_precision(score, wrong),
        }
    if p is not None:
        found |= {"ECE": expected_calibration_error(p, wrong, equal_mass=True), "share": float(p.mean())}
    return found


def of_matches(score: np.ndarray, matches: np.ndarray, free: np.ndarray, p: np.ndarray | None = None) -> dict:
    """How well a score [n, m] finds the matches (bool [n, m]) among the pairs that are `free` of a label."""
    score, true = score[free], matches[free]
    order = np.argsort(-score, kind="stable")
    found = {f"first {k}": float(true[order[:k]].mean()) for k in FIRST}
    found["AP"] = average_precision(score, true)
    if p is not None:
        found["ECE"] = expected_calibration_error(p[free], true)
        found |= {f"p, first {k}": float(p[free][order[:k]].mean()) for k in FIRST}
    return found


def average_precision(score: np.ndarray, true: np.ndarray) -> float:
    """The area under precision over recall: the mean precision at each true one."""
    hits = true[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean()) if hits.any() else float("nan")


def interval(estimate: tuple[float, float, float], truth: float) -> dict:
    """An estimated count or share beside the true one."""
    value, low, high = estimate
    return {"estimate": value, "low": low, "high": high, "truth": truth, "covered": bool(low <= truth <= high)}


def mean_and_spread(runs: list[Mapping], *path: str) -> str:
    """A number of each run as mean ± standard deviation; "not run" without runs, "–" where none has the number."""
    if not runs:
        return "not run"
    values = []
    for run in runs:
        for name in path:
            run = run.get(name) if isinstance(run, Mapping) else None  # type: ignore[assignment]
        if isinstance(run, int | float):
            values.append(float(run))
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"
