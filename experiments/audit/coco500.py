"""Wrong pairs put into CLIP ViT-B/16's features of 500 COCO images with one caption each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.audit import rivals
from experiments.audit.measure import interval, mean_and_spread, of_labels
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.audit.cross_fit import cross_fit, leaking
from vacsr_jax.audit.findings import Findings, audit
from vacsr_jax.audit.judge import Judge
from vacsr_jax.config_files import load_config
from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring.model import score_pairs

NOISE = (0.2, 0.5, 0.0)
FOLDS = 3
LOSSES = ("propensity", "sigmoid", "infonce")
# As in experiments/embeddings: a gain, if there is one, comes within few steps.
FIELDS = ("train.steps=1000", "checkpoint.every=25", "train.patience=3", "train.log_every=100")


def run(data: Path, out: Path, seeds: int) -> None:
    """Audits the set with each share of wrong pairs; a result that is there is not made again."""
    for seed in range(seeds):
        for noise in NOISE:
            result = out / f"noise{noise}-seed{seed}.json"
            if not result.exists():
                write_text(result, to_json(audit_all(data, out / f"noise{noise}-seed{seed}", noise, seed)))
                print(result.stem, flush=True)


def audit_all(data: Path, folder: Path, noise: float, seed: int) -> dict:
    """The audit by every method: precision over the wrong labels, and the exchanged pairs among missing matches."""
    with np.load(data / "features.npz") as file:
        images, texts = file["image"], file["text"]
    n = len(images)
    image_of, wrong = exchanged(n, noise, seed)
    path = folder / "pairs.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image_embeddings=images, text_embeddings=texts, image_of=image_of)
    source = read_pairs(path).source(None)
    caption = source.text_rows  # of each text of the source, the row of the file
    mine = wrong[caption]

    def config_of(loss: str):
        fields = [f"--config.{field}" for field in (*FIELDS, f"seed={seed}")]
        return load_config(f"configs/embeddings.py:path={path},method={loss}", fields)

    found: dict = {"labels": {}, "noise": noise, "seed": seed}
    for name, judges in (
        ("propensity, cross-fitted", cross_fit(source, config_of("propensity"), FOLDS, folder / "propensity")),
        ("propensity, leaking", leaking(source, config_of("propensity"), folder / "leaking")),
    ):
        seen = audit(judges, 5000)
        found["labels"][name] = of_labels(seen.wrong, mine, mine, seen.p_wrong)
        estimate = (seen.share.value, seen.share.low, seen.share.high)
        found[name] = {
            "share": interval(estimate, float(wrong.mean())),
            "expected": seen.expected.value,
            "recall": recall_of_exchanged(seen, mine, caption),
            "steps": [judge.trained.step for judge in judges],
        }
    for loss in LOSSES[1:]:
        judges = cross_fit(source, config_of(loss), FOLDS, folder / loss)
        logit = np.empty((n, n))
        for judge in judges:
            logit[judge.rows] = scores_of(judge)
        found["labels"][f"{loss}, cross-fitted"] = of_labels(-rivals.own(logit, source.text_image), mine, mine)
        losses = {"sigmoid": rivals.sigmoid_loss, "infonce": rivals.infonce_loss}[loss](logit, source.text_image)
        p = rivals.mixture(losses)
        found["labels"][f"{loss}, mixture of losses"] = of_labels(losses, mine, mine, p)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    cosine = unit[0][source.rows] @ unit[1][caption].T
    own = rivals.own(cosine, source.text_image)
    found["labels"]["raw cosine"] = of_labels(-own, mine, mine)
    below = (own < rivals.CLIP_THRESHOLD).astype(float)
    found["labels"][f"cosine below {rivals.CLIP_THRESHOLD}"] = of_labels(-own, mine, mine, below)
    losses = rivals.infonce_loss(100 * cosine, source.text_image)
    found["labels"]["raw cosine, mixture of losses"] = of_labels(losses, mine, mine, rivals.mixture(losses))
    for name, score in rivals.cleanlab_scores(100 * cosine, source.text_image).items():
        found["labels"][f"raw cosine, cleanlab {name}"] = of_labels(score, mine, mine)
    return found


def exchanged(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image of each caption, and which captions have a wrong one: a share of them in a cycle."""
    chosen = np.random.default_rng([seed, 5]).permutation(n)[: int(noise * n)]
    image_of, wrong = np.arange(n), np.zeros(n, bool)
    image_of[chosen] = np.roll(chosen, 1)
    wrong[chosen] = True
    return image_of, wrong


def recall_of_exchanged(seen: Findings, wrong: np.ndarray, caption: np.ndarray) -> float:
    """The share of exchanged captions whose own image is among the likeliest missing matches, twice as many as those.

    Row i of the file belongs to row i, so a caption's own image has its number.
    """
    k = 2 * int(wrong.sum())
    source = seen.data.source
    hits = {int(j) for i, j in seen.missing[:k] if source.rows[i] == caption[j] and wrong[j]}  # type: ignore[attr-defined]
    return len(hits) / max(1, int(wrong.sum()))


def scores_of(judge: Judge) -> np.ndarray:
    """The logits of a judge's images with all captions."""
    images, texts = judge.image_items(judge.rows), judge.text_items(np.arange(len(judge.data.image_of)))
    return score_pairs(judge.trained.model, judge.trained.params, images, texts).logit


def tables(out: Path) -> str:
    """The results in `out`, mean ± standard deviation over the seeds."""
    runs = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    rows, counts = [], []
    for noise in sorted({run["noise"] for run in runs}):
        mine = [run for run in runs if run["noise"] == noise]
        for name in mine[0]["labels"]:
            columns = ("AUROC", "AP", "precision", "first tenth", "ECE", "share")
            rows.append([f"{noise:.0%}", len(mine), name, *(mean_and_spread(mine, "labels", name, c) for c in columns)])
        for name in ("propensity, cross-fitted", "propensity, leaking"):
            covered = [run[name]["share"]["covered"] for run in mine]
            line = [mean_and_spread(mine, name, "share", x) for x in ("estimate", "low", "high", "truth")]
            line += [f"{sum(covered)} of {len(covered)}", mean_and_spread(mine, name, "recall")]
            counts.append([f"{noise:.0%}", len(mine), name, *line, mean_and_spread(mine, name, "expected")])
    head = ["wrong", "seeds", "by"]
    columns = ["AUROC", "AP", "precision", "of the first tenth", "ECE", "mean p"]
    more = ["share", "low", "high", "true share", "covered", "exchanged pairs found", "missing"]
    return (
        f"## CLIP features of 500 COCO images\n\n{format_table(rows, [*head, *columns], markdown=True)}\n\n"
        f"{format_table(counts, [*head, *more], markdown=True)}"
    )
