"""Builds the page of a finished run from the evaluation of its best checkpoint on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.evaluation.explanation import Explanation
from vacsr_jax.evaluation.retrieval import Evaluation
from vacsr_jax.evaluation.uncertainty_figures import pair_classes
from vacsr_jax.metrics.calibration import reliability
from vacsr_jax.metrics.retrieval import chance
from vacsr_jax.report.explanation import explanation_svg
from vacsr_jax.report.html import Candidate, Explained, Report, Retrieval, Table
from vacsr_jax.report.tables import Cell, format_table

SHOWN = 6  # queries per direction
CANDIDATES = 6  # items per query

# Metrics of the printed table, in order. The JSON has all metrics.
HEADLINES = (
    "true/mAP@R",
    "true/i2t/mAP@R",
    "true/t2i/mAP@R",
    "true/nDCG",
    "true/Spearman",
    "true/ECE",
    "true/AUROC score top/pooled",
    "true/AUROC score top/within",
    "true/AUROC uncertainty top/pooled",
    "true/AUROC uncertainty top/within",
    "mAP@R",
    "i2t/R@1",
    "i2t/R@5",
    "i2t/R@10",
    "t2i/R@1",
    "t2i/R@5",
    "t2i/R@10",
    "rsum",
    "coco_1k_rsum",
    "coco_1k_r1",
    "coco_5k_r1",
    "cxc_r1",
    "eccv_map_at_r",
    "eccv_rprecision",
    "eccv_r1",
    "ECE",
)


# What a metric means, for a reader who has not met it. The name is part of the metric's.
MEANINGS = {
    "mAP@R": (
        "A query has R matches, and its first R candidates are looked at. Each match among them counts the share of "
        "matches down to its place; the sum is divided by R. 1: all of them are matches."
    ),
    "nDCG": "Graded relevance, discounted by place, over that of the best order. 1 is best.",
    "Spearman": "How well the order of the candidates agrees with graded relevance, -1 to 1. Chance gives 0.",
    "R@": "R@K: the share of queries with a match among the first K candidates.",
    "rsum": "The sum of R@1, R@5 and R@10 in both directions, in per cent: 600 is best.",
    "ECE": (
        "Expected calibration error: how far the predicted probability of a match lies from the share of matches, on "
        "average. 0 is best. A model that answers every pair with the share of all matches has 0 as well, so read it "
        "beside a ranking metric."
    ),
    "AUROC": (
        "How well the score (or uncertainty) tells unlabelled matches from true negatives among each caption's 20 best "
        "pairs, pooled over captions or within each. Chance gives 0.5."
    ),
}


def by_chance(metrics: Mapping[str, float], labels: np.ndarray, relevance: np.ndarray | None) -> dict[str, float]:
    """What a random order gives for those of the metrics where that is known, against the labels and the truth."""
    found = chance(labels) | {name: 0.5 for name in metrics if "AUROC" in name} | {"true/Spearman": 0.0}
    if relevance is not None:
        found |= {f"true/{name}": value for name, value in chance(relevance == 1).items()}
    return found


def metric_rows(columns: Mapping[str, Mapping[str, float]], names=HEADLINES) -> list[list]:
    """Returns one row per metric that any column has: its name, then each column's value or None."""
    present = [name for name in names if any(name in metrics for metrics in columns.values())]
    return [[name, *(metrics.get(name) for metrics in columns.values())] for name in present]


def printed_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    return format_table(metric_rows(columns), ["metric", *columns])


def build_report(
    title: str,
    source: Source,
    evaluation: Evaluation,
    columns: Mapping[str, Mapping[str, float]],
    curves: list[dict[str, float]],
    config: Mapping,
    command: str,
    explain: Callable[[np.ndarray, str], Explanation] | None = None,
) -> Report:
    """Builds the page of a run: `evaluation` is its best model on `source`, `columns` are the metrics to compare.

    `explain` is the model's explanation of an image and a text, if it has one.
    """
    labels, relevance, uncertainty = evaluation.labels, evaluation.relevance, evaluation.scores.uncertainty
    columns = {"chance": by_chance(evaluation.metrics, labels, relevance), **columns}
    note = "i2t asks with images, t2i with texts. Chance is the mean over all orders of the candidates."
    if relevance is not None:
        note = (
            "Metrics under true/ use the known truth, the others the labels, which name one image per caption. " + note
        )
    shown = " ".join(name for name, *_ in metric_rows(columns))
    return Report(
        title=title,
        subtitle=f"{len(source)} images, {labels.shape[1]} captions",
        tables=[
            Table(
                "Test split",
                ["metric", *columns],
                metric_rows(columns),
                note,
                {name: meaning for name, meaning in MEANINGS.items() if name in shown},
            ),
            _distributions(evaluation),
        ],
        text_to_image=_retrievals(source, evaluation, transpose=True),
        image_to_text=_retrievals(source, evaluation, transpose=False),
        histograms=pair_classes(evaluation.scores.by_match(), labels, relevance),
        uncertainty_histograms={} if uncertainty is None else pair_classes(uncertainty, labels, relevance),
        uncertainty=evaluation.curves,
        reliability=_reliability(evaluation),
        explanations=_explanations(source, evaluation, explain) if explain else (),
        curves=_curves(curves),
        config=config,
        command=command,
        truth_known=relevance is not None,
    )


def _status(evaluation: Evaluation, i: int, j: int) -> str:
    if evaluation.relevance is None:
        return "labelled" if evaluation.labels[i, j] else "unlabelled"
    if evaluation.labels[i, j]:
        return "labelled match"
    return "unlabelled match" if evaluation.relevance[i, j] == 1 else "not a match"


def _candidate(source: Source, texts: list[str], evaluation: Evaluation, i: int, j: int, transpose: bool) -> Candidate:
    uncertainty = evaluation.scores.uncertainty
    return Candidate(
        content=shown(source, i) if transpose else texts[j],
        logit=float(evaluation.scores.by_match()[i, j]),
        status=_status(evaluation, i, j),
        probability=None if evaluation.probability is None else float(evaluation.probability[i, j]),
        uncertainty=None if uncertainty is None else float(uncertainty[i, j]),
    )


def shown(source: Source, index: int) -> np.ndarray | str:
    """An image's pixels, or what a source of embeddings shows in place of them."""
    return source.shown(index) if hasattr(source, "shown") else source.image(index)


def _retrievals(source: Source, evaluation: Evaluation, *, transpose: bool) -> list[Retrieval]:
    """Returns evenly spaced queries with their best candidates: texts as queries if `transpose`, else images."""
    texts, _ = caption_pairs(source)
    score = evaluation.scores.by_match().T if transpose else evaluation.scores.by_match()
    found = []
    for query in np.linspace(0, len(score) - 1, min(SHOWN, len(score))).astype(int):
        best = np.argsort(-score[query])[:CANDIDATES]
        pairs = [(int(b), query) if transpose else (query, int(b)) for b in best]
        candidates = [_candidate(source, texts, evaluation, i, j, transpose) for i, j in pairs]
        right = evaluation.labels[:, query] if transpose else evaluation.labels[query]
        note = _rank_of_right(score[query], right, "picture" if transpose else "text")
        found.append(Retrieval(texts[query] if transpose else shown(source, int(query)), candidates, note))
    return found


def _rank_of_right(score: np.ndarray, right: np.ndarray, what: str) -> str:
    """Where the best labelled candidate is, if the row does not show it."""
    if not right.any():
        return ""
    rank = 1 + int((score > score[right].max()).sum())
    return "" if rank <= CANDIDATES else f"The labelled {what} is at rank {rank:,} of {len(score):,}."


def _explanations(source: Source, evaluation: Evaluation, explain: Callable) -> list[Explained]:
    """Explains captions with the image that ranks first: half where that is a match, half where it is not."""
    texts, _ = caption_pairs(source)
    score = evaluation.scores.by_match()
    first = score.argmax(axis=0)
    truth = evaluation.labels if evaluation.relevance is None else evaluation.relevance == 1
    right = truth[first, np.arange(len(first))]
    found = []
    for group in (np.flatnonzero(right), np.flatnonzero(~right)):
        for j in group[np.linspace(0, len(group) - 1, min(SHOWN // 2, len(group))).astype(int)]:
            drawn = explanation_svg(explain(source.image(int(first[j])), texts[j]))
            found.append(Explained(_status(evaluation, int(first[j]), int(j)), texts[j], drawn))
    return found


def _distributions(evaluation: Evaluation) -> Table:
    rows: list[list[Cell]] = [
        [f"{name}, {kind}", *numbers]
        for name, kinds in evaluation.distributions().items()
        for kind, numbers in kinds.items()
    ]
    return Table("Scores and uncertainties", ["pairs of", "count", "mean", "s.d.", "5 %", "50 %", "95 %"], rows)


def _reliability(evaluation: Evaluation) -> dict:
    if evaluation.probability is None:
        return {}
    curves = {"against the labels": reliability(evaluation.probability, evaluation.labels)}
    if evaluation.relevance is not None:
        curves["against the truth"] = reliability(evaluation.probability, evaluation.relevance == 1)
    return curves


def _curves(records: list[dict[str, float]]) -> dict:
    names = dict.fromkeys(name for record in records for name in record if name != "step")
    return {
        name: ([r["step"] for r in records if name in r], [r[name] for r in records if name in r]) for name in names
    }
