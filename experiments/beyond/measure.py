"""Compares a trained model of scenes with the truth: its probabilities, its propensities, and controls of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiments.beyond.corrections import LABELS, Scored, corrections
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.metrics.calibration import reliability
from vacsr_jax.metrics.retrieval import average_precision_at_r
from vacsr_jax.metrics.uncertainty import false_negative_auroc
from vacsr_jax.pretrained import Pretrained, Scores

BANK = 500  # training images that entropies are computed over
TRUE = "true"


def measure(model: Pretrained, config, folder: Path) -> dict:
    """Returns numbers for the result file, and writes arrays for the figures to `folder`.npz.

    `corrections` holds i2t mAP@R against the truth and the pooled AUROC with one number per text added to the match
    score (caption length, entropy, the oracle). `probability` holds the mean of labelled pairs, unlabelled matches and
    true negatives. `generality` is the rank correlation of g with the number of images that a caption is true of.
    """
    train = open_split(config, "train")
    bank = model.encode_images([train.image(i) for i in range(min(BANK, len(train)))])
    (validation, _, _), (test, scores, matches) = (
        scored(model, open_split(config, split), bank) for split in ("validation", "test")
    )
    labels = test.truths[LABELS]
    found = {
        "noise_rate": model.noise_rate,
        "corrections": {
            name: {
                "i2t": float(np.mean(average_precision_at_r(test.scores + bias, matches))),
                "auroc": false_negative_auroc(test.scores + bias, test.scores, labels, matches)["top/pooled"],
            }
            for name, bias in corrections(validation, test, TRUE)
        },
    }
    if scores.probability is None:
        return found
    kinds = {"labelled": labels, "unlabelled match": matches & ~labels, "negative": ~matches & ~labels}
    found["probability"] = {name: float(scores.probability[mask].mean()) for name, mask in kinds.items()}
    g = (scores.label_score - scores.match_score)[0]
    count = matches.sum(axis=0)
    if np.ptp(g) > 0:
        found["generality"] = float(spearmanr(g, count).statistic)
    folder.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    values = {name: rng.choice(scores.probability[mask], 20_000) for name, mask in kinds.items()}
    curve = reliability(scores.probability, matches)
    np.savez(f"{folder}.npz", g=g, count=count, **{f"p {k}": v for k, v in values.items()}, **curve_arrays(curve))
    return found


def curve_arrays(curve) -> dict[str, np.ndarray]:
    return {f"reliability {name}": np.asarray(value) for name, value in curve._asdict().items()}


def scored(model: Pretrained, source, bank: np.ndarray) -> tuple[Scored, Scores, np.ndarray]:
    """Scores a split's pictures and captions, with the bank; also returns the true matches [n, m]."""
    texts, owner = caption_pairs(source)
    matches = source.relevance() == 1
    images, embedded = model.encode_images([source.image(i) for i in range(len(source))]), model.encode_texts(texts)
    scores, of_bank = model.score(images, embedded), model.score(bank, embedded)
    truths = {LABELS: owner == np.arange(len(source))[:, None], TRUE: matches}
    lengths = np.array([len(text.split()) for text in texts])
    generality = np.log(np.maximum(matches.sum(axis=0), 1))
    return Scored(scores.match_score, of_bank.match_score, truths, lengths, generality), scores, matches
