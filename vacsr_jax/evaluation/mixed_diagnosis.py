"""How biased a bank of embeddings is towards one modality."""

from __future__ import annotations

import itertools

import numpy as np

from vacsr_jax.evaluation.mixed_problem import Problem, best_candidates, candidate_scores
from vacsr_jax.search.diagnosis import Diagnosis
from vacsr_jax.search.fusion import means
from vacsr_jax.search.standardization import ModalityStats, empty, scale


def diagnose(problem: Problem, stats: ModalityStats, k: int) -> Diagnosis:
    """Shares of the top k before and after, scales and gaps, for queries of one modality; as `MixedIndex.diagnose`.

    Raises:
      ValueError: if the queries are of several modalities, or k is below 1.
    """
    rows = set(problem.query_modality.tolist())
    if len(rows) > 1:
        raise ValueError(f"queries of {len(rows)} modalities have as many scales; diagnose those of one at a time")
    row = rows.pop()
    pools = np.bincount(problem.modality, minlength=len(problem.modalities))
    here = {name: i for i, name in enumerate(problem.modalities) if pools[i]}
    centres = means(problem.bank, problem.modality, len(problem.modalities))
    identity = empty(stats.modalities, query_modalities=stats.query_modalities)  # mean 0, std 1
    mean, std = (np.asarray(x)[row] for x in scale(stats))
    errors = (np.asarray(x)[row] for x in (stats.standard_error_mean, stats.standard_error_std))

    def named(values) -> dict[str, float]:
        return {name: float(values[i]) for name, i in here.items()}

    def shares(statistics: ModalityStats) -> dict[str, float]:
        found = best_candidates(problem, statistics, k)[0]
        return named(np.bincount(problem.modality[found[found >= 0]], minlength=len(pools)) / (found >= 0).sum())

    top1 = np.concatenate([_best(block, len(pools)) for block in problem.blocks()])
    return Diagnosis(
        documents={name: int(pools[i]) for name, i in here.items()},
        share_raw=shares(identity),
        share=shares(stats),
        mean=named(mean),
        std=named(std),
        mean_error=named(next(errors)),
        std_error=named(next(errors)),
        gap={
            (a, b): float(np.linalg.norm(centres[here[a]] - centres[here[b]]))
            for a, b in itertools.combinations(here, 2)
        },
        top1={name: top1[np.isfinite(top1[:, i]), i] for name, i in here.items()},
        k=k,
        queries=len(problem.queries),
    )


def _best(problem: Problem, modalities: int) -> np.ndarray:
    scores = np.asarray(candidate_scores(problem))
    return np.stack([scores[:, problem.modality == m].max(axis=1, initial=-np.inf) for m in range(modalities)], axis=1)
