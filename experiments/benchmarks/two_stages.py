"""Two stages: candidates by an inner product, then VACSR for k of them per image; what k costs and what it keeps.

`python -m experiments.benchmarks.two_stages --workdir=runs/scenes --out=two_stages.json` ranks the captions of a run's
test split for every image: by all pairs, and by the best k of two first stages. `cosine` is that of the prepared
embeddings; `linear` their inner product under `linear_stage`'s weights. Prints a table, draws a plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import best_seconds
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import with_new_fields
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.metrics.retrieval import map_at_r, recall_at_k
from vacsr_jax.pair.adapter import AdapterScorer
from vacsr_jax.pair.cosine import CosineScorer
from vacsr_jax.pretrained import load
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring import pairs as pair_scoring
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.training.checkpoint import config_from_dict

KS = (10, 25, 50, 100, 250, 500, 1000)
COLUMNS = ["first stage", "k", "mAP@R", "R@1", "of the full ranking's top 10", "seconds", "of the full ranking's time"]
INNER = CosineScorer(np.float32(1), np.float32(0))
STAGE_PAIRS = 4096  # random pairs that the linear first stage is fitted to


def linear_stage(scorer: AdapterScorer, images: np.ndarray, texts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Weights w [d] of a first stage for an adapter: w . (v * t) = (w * v) . t, which any inner-product store ranks by.

    The mean gradient of the score in the similarity vector over `STAGE_PAIRS` random pairs of the two sides: the best
    linear approximation where that vector is Gaussian (Stein's lemma). An adapter learns no cosine, so the cosine of
    its embeddings is no first stage for it.
    """
    rng = np.random.default_rng(seed)
    pairs = images[rng.integers(len(images), size=STAGE_PAIRS)] * texts[rng.integers(len(texts), size=STAGE_PAIRS)]
    return np.asarray(_mean_slope(scorer.for_ranking(), pairs[:, None]))


@jax.jit
def _mean_slope(scorer: AdapterScorer, similarity: jax.Array) -> jax.Array:
    return jax.grad(lambda s: jnp.sum(scorer.score_vectors(s).logit))(similarity).mean(axis=(0, 1))


def quality(scores: np.ndarray, matches: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """mAP@R against the truth where it is known (else the labels), and R@1 against the labels."""
    return map_at_r(scores, matches), recall_at_k(scores, labels, [1])[1]


def curve(scorer: AdapterScorer, images, texts, matches, labels, rounds: int) -> list[list[Any]]:
    """One row for the full ranking, and one for every first stage and k; `COLUMNS`."""
    scorer = scorer.for_ranking()
    full = pair_scoring.score_all(scorer, images, texts).logit
    ten = min(10, len(texts))
    best = np.argsort(-full, axis=1)[:, :ten]
    weights = linear_stage(scorer, images, texts)
    stages = {"cosine": images, "linear": images * weights}
    ks = [k for k in KS if k < len(texts)]

    def two_stages(queries, k):
        found = pair_scoring.top_k(INNER, queries, texts, k)
        return pair_scoring.rerank(scorer, images, texts, found.index)

    contenders = {("all pairs", len(texts)): lambda: pair_scoring.top_k(scorer, images, texts, ten).index}
    for name, queries in stages.items():
        contenders |= {(name, k): lambda queries=queries, k=k: two_stages(queries, k).index for k in ks}
    seconds = best_seconds(contenders, rounds)
    whole = seconds["all pairs", len(texts)]
    rows = [["all pairs", len(texts), *quality(full, matches, labels), 1.0, whole, 1.0]]
    for name, queries in stages.items():
        first = queries @ texts.T
        rows.append([f"{name} alone", 0, *quality(first, matches, labels), None, None, None])
        for k in ks:
            candidates = two_stages(queries, k).index
            # Candidates by VACSR, all others behind them by the first stage.
            scores = first - first.max() + full.min() - 1
            np.put_along_axis(scores, candidates, np.take_along_axis(full, candidates, 1), 1)
            kept = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(best, candidates, strict=True)])
            time = seconds[name, k]
            rows.append([name, k, *quality(scores, matches, labels), float(kept), time, time / whole])
    return rows


def plot(rows: list[list[Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5))
    for panel, column in zip(axes, (2, 4, 5), strict=True):
        for name in ("cosine", "linear"):
            mine = [row for row in rows if row[0] == name]
            panel.semilogx([row[1] for row in mine], [row[column] for row in mine], "o-", label=f"{name}, then VACSR")
        panel.axhline(rows[0][column], color="black", linewidth=1, label="all pairs")
        panel.set_xlabel("k")
        panel.set_title(COLUMNS[column])
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.two_stages", description=__doc__)
    parser.add_argument("--workdir", required=True, help="a trained run of method vacsr or deterministic")
    parser.add_argument("--out", default="two_stages.json", help="JSON file of the rows; the plot lies beside it")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing")
    options = parser.parse_args(arguments)
    run = load(options.workdir)
    source = open_split(with_new_fields(config_from_dict(run.config)), "test")
    texts, image_index = caption_pairs(source)
    labels = np.arange(len(source))[:, None] == image_index[None]
    matches = source.relevance() == 1 if hasattr(source, "relevance") else labels
    images = embed_images(run.model, run.params, source)
    vectors = embed_texts(run.model, run.params, run.tokenizer(texts))
    rows = curve(prepare_scorer(run.model, run.params), images, vectors, matches, labels, options.rounds)
    write_text(Path(options.out), to_json([dict(zip(COLUMNS, row, strict=True)) for row in rows]))
    plot(rows, Path(options.out).with_suffix(".png"))
    print(format_table(rows, COLUMNS, markdown=True))


if __name__ == "__main__":
    main()
