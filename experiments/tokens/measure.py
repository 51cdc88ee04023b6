"""Compares a trained model of scenes with the truth on pairs that are the same for every model of a seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.scenes import SceneSource, holds, is_held_out
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.evaluation.retrieval import score_source
from vacsr_jax.metrics.retrieval import average_precision_at_r
from vacsr_jax.metrics.uncertainty import auroc_within, best_unlabelled, false_negative_auroc
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.training import loop
from vacsr_jax.workdir import METRICS

REFERENCE = "reference"  # folder of the reference model's scores, by seed
KINDS = ("relation", "side", "other")
WITHIN = "validation/within"  # at each checkpoint, among a caption's 20 best pairs


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


def measure_hard(model: Pretrained, config, folder: Path) -> dict:
    """Returns numbers of the test split for the result file, without a reference model.

    `t2i` holds the mAP@R of captions of three facts on scenes of their own (`long`), of all captions where objects are
    drawn up to 4 pixels from the middle of their cells (`moved`), of captions that name a combination of colour and
    shape that held-out training has not seen (`novel`), and of the others that name one (`base`).
    `facts` holds by kind of fact how well the score tells where it is true: the AUROC within captions, over the images
    of which all other facts of the caption are true.
    """
    test = open_split(config, "test")
    score = evaluate_captions(model, test).scores.by_match()
    precision = average_precision_at_r(score.T, (test.relevance() == 1).T)
    named = [named_combinations(facts) for facts in test.facts]
    sets = {"novel": [any(is_held_out(*pair) for pair in own) for own in named]}
    sets["base"] = [bool(own) and not novel for own, novel in zip(named, sets["novel"], strict=True)]
    t2i = {name: float(np.mean(precision[np.array(mask)])) for name, mask in sets.items()}
    for name, field, value in (("long", "facts", (0.0, 0.0, 1.0)), ("moved", "jitter", 4.0)):
        other = config.copy_and_resolve_references()
        other.data[field] = value
        t2i[name] = evaluate_captions(model, open_split(other, "test")).metrics["true/t2i/mAP@R"]
    return {"noise_rate": model.noise_rate, "t2i": t2i, "facts": fact_aurocs(score, test)}


def named_combinations(facts) -> list[tuple[int, int]]:
    """The colours and shapes that a caption names together."""
    phrases = [phrase for fact in facts for phrase in (fact.first, fact.second)]
    return [(x.colour, x.shape) for x in phrases if x.colour is not None and x.shape is not None]


def fact_aurocs(score: np.ndarray, test: SceneSource) -> dict[str, float]:
    """By kind: the AUROC of `measure_hard`, over captions with one fact of that kind."""
    values: dict[str, list] = {}
    for j, facts in enumerate(test.facts):
        truth = np.array([holds(fact, test.layout) for fact in facts])
        for k, fact in enumerate(facts):
            others = np.delete(truth, k, axis=0).all(axis=0)
            if sum(other.kind == fact.kind for other in facts) == 1:
                values.setdefault(fact.kind, []).append((score[others, j], truth[k, others], np.full(others.sum(), j)))
    return {kind: auroc_within(*map(np.concatenate, zip(*parts, strict=True))) for kind, parts in values.items()}


@contextmanager
def watched() -> Iterator[None]:
    """Records the within-caption AUROC of the validation split at each checkpoint. Training does not see it."""
    validate = loop.validate

    def validate_more(run, params):
        metrics, fitted = validate(run, params)
        found, labels = score_source(run.model, fitted, run.validation, run.tokenizer, None)
        score, matches = found.by_match(), open_split(run.config, "validation").relevance() == 1
        within = false_negative_auroc(score, score, labels, matches)["top/within"]
        return metrics | {WITHIN: within}, fitted

    with mock.patch.object(loop, "validate", validate_more):
        yield


def measure_curve(model: Pretrained, config, folder: Path) -> dict:
    """Returns what `watched` has recorded: [step, AUROC] of each checkpoint."""
    records = map(json.loads, (folder.parents[1] / "workdirs" / folder.name / METRICS).read_text().splitlines())
    return {"curve": [[record["step"], record[WITHIN]] for record in records if WITHIN in record]}
