"""Compares a trained model of scenes with the truth on pairs that are the same for every model of a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vacsr_jax.data.datasets import open_split
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.metrics.retrieval import average_precision_at_r
from vacsr_jax.metrics.uncertainty import best_unlabelled, false_negative_auroc
from vacsr_jax.pretrained import Pretrained

REFERENCE = "reference"  # folder of the reference model's scores, by seed
KINDS = ("relation", "side", "other")


def measure_reference(model: Pretrained, config, folder: Path) -> dict:
    """Writes which unlabelled pairs of the test split the reference model ranks first: 20 images for each caption."""
    found = evaluate_captions(model, open_split(config, "test"))
    file = reference_file(folder.parents[1], config.seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, chosen=best_unlabelled(found.scores.by_match(), found.labels))
    return measure(model, config, folder)


def reference_file(out: Path, seed: int) -> Path:
    return out / REFERENCE / f"seed{seed}.npz"


def measure(model: Pretrained, config, folder: Path) -> dict:
    """Returns numbers of the test split for the result file, and saves the model in `folder`.

    It needs the file that `measure_reference` writes.

    `common` holds the AUROC on the reference model's pairs, pooled and within captions: every model of a seed is asked
    about the same pairs, so that a better model does not get harder ones. `t2i` holds the mAP@R of captions with a
    relation, with a side, and of the others. `probability` holds the mean match probability of labelled pairs,
    unlabelled matches and true negatives.
    """
    model.save(folder)
    test = open_split(config, "test")
    found = evaluate_captions(model, test)
    score, labels, matches = found.scores.by_match(), found.labels, found.relevance == 1
    with np.load(reference_file(folder.parents[1], config.seed)) as file:
        chosen = file["chosen"]
    # `best_unlabelled` takes the pairs that score highest, which are those that the reference chose.
    common = false_negative_auroc(score, chosen.astype(np.float32), labels, matches)
    precision = average_precision_at_r(score.T, matches.T)
    kinds = np.array([kind_of(facts) for facts in test.facts])[matches.any(axis=0)]
    result = {
        "noise_rate": model.noise_rate,
        "common": {"pooled": common["top/pooled"], "within": common["top/within"]},
        "t2i": {kind: float(np.mean(precision[kinds == kind])) for kind in KINDS},
    }
    if found.probability is not None:
        sets = {"labelled": labels, "unlabelled match": matches & ~labels, "negative": ~matches & ~labels}
        result["probability"] = {name: float(found.probability[mask].mean()) for name, mask in sets.items()}
    return result


def kind_of(facts) -> str:
    """Whether a caption states a relation; if not, whether it states a side."""
    stated = {fact.kind for fact in facts}
    return next((kind for kind in KINDS[:2] if kind in stated), KINDS[-1])
