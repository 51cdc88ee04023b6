"""Every method from pretrained towers, the setting of the paper: rows, runs, measurements and tables.

The towers are those of the shipped model TOWERS, trained on a web without scenes (`vacsr_jax/data/scene_web.py`).
"""

from __future__ import annotations

from pathlib import Path

from experiments.scenes.runs import Task, finished, result_file

TOWERS = "scenes-web"
NOISE = (0.0, 0.2, 0.5)
FIELDS = {"model.pretrained": TOWERS, "train.steps": 1200, "checkpoint.every": 200}
ZERO_SHOT = "zero-shot"
PROPENSITY = {"method": "propensity"}
VACSR, DETERMINISTIC = {"method": "vacsr"}, {"method": "deterministic"}
METHODS = {
    "InfoNCE": {"method": "infonce"},
    "sigmoid": {"method": "sigmoid"},
    "triplet": {"method": "triplet"},
    "PCME++": {"method": "pcmepp"},
    "deterministic": DETERMINISTIC,
    "VACSR": VACSR,
    "propensity": PROPENSITY,
    "claims": PROPENSITY | {"propensity.match": "conjunction"},
    "tokens": PROPENSITY | {"propensity.match": "tokens"},
}
RESIDUAL = {"adapter.residual": True}
OPTIONS = {
    "deterministic, residual": DETERMINISTIC | RESIDUAL,
    "VACSR, residual": VACSR | RESIDUAL,
    "VACSR, sigma^2 = u": VACSR | {"adapter.bounded": True},
}
# Part of the table -> the fields that say what learns, and its rows.
PARTS = {
    "trained": ({}, METHODS),
    "frozen": ({"optim.frozen": ["towers/*"]}, METHODS),
    "options": ({}, OPTIONS),
    "first blocks": ({"optim.image_blocks": 1, "optim.text_blocks": 1}, METHODS),
    # Steps in the time of VACSR's 1,200, by the step times of the README: 17.0, 16.9 and 19.8 ms against 24.9.
    "compute": (
        {},
        {
            "InfoNCE": METHODS["InfoNCE"] | {"train.steps": 1758},
            "sigmoid": METHODS["sigmoid"] | {"train.steps": 1768},
            "deterministic": DETERMINISTIC | {"train.steps": 1509},
        },
    ),
    # The variance and the learning curves, without pretrained towers.
    "scratch": (
        {"model.pretrained": "", "train.steps": 3000, "checkpoint.every": 300},
        {"deterministic": DETERMINISTIC, "VACSR": VACSR, "VACSR, sigma^2 = u": VACSR | {"adapter.bounded": True}},
    ),
}
CANDIDATES = 100  # of the cosine, which the adapter ranks again
METRICS = {
    "mAP@R": "true/mAP@R",
    "R@1 i2t": "i2t/R@1",
    "R@1 t2i": "t2i/R@1",
    "ECE, truth": "true/ECE",
    "AUROC of score, pooled": "true/AUROC score top/pooled",
    "within": "true/AUROC score top/within",
    "AUROC of uncertainty, pooled": "true/AUROC uncertainty top/pooled",
    "within ": "true/AUROC uncertainty top/within",
}


def zero_shot(seed: int) -> str:
    return f"{ZERO_SHOT}-seed{seed}"


def task(part: str, row: str, noise: float, seed: int) -> Task:
    fields, rows = PARTS[part]
    name = f"{part}-{row}-noise{noise}-seed{seed}".replace(" ", "_").replace(",", "")
    return Task(name, {**FIELDS, **fields, **rows[row], "data.noise": noise, "seed": seed}, untrained=False)


def tasks(parts: tuple[str, ...], seed: int, common: dict) -> list[Task]:
    """The runs of a seed; clean and half wrong labels first, and the adapters before the baselines."""
    order = [(part, noise) for part in parts for noise in (NOISE[0], *reversed(NOISE[1:]))]
    found = [task(part, row, noise, seed) for part, noise in order for row in reversed(PARTS[part][1])]
    return [one._replace(fields={**one.fields, **common}) for one in found]


def evaluate_zero_shot(out: Path, seed: int) -> None:
    """Writes the metrics of the towers as they are, on the test split of a seed."""
    from experiments.scenes.runs import make_config
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.evaluation.loaded_model import evaluate_captions
    from vacsr_jax.pretrained import load

    file = result_file(out, zero_shot(seed))
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        metrics = evaluate_captions(load(TOWERS), open_split(make_config({"seed": seed}), "test")).metrics
        write_text(file, to_json({"test": metrics}))


def measure(model, config, folder: Path) -> dict:
    """What re-ranking the cosine's first candidates keeps of an adapter's ranking of everything; `run_one`'s `measure`.

    Empty for models that are no adapters on one vector for each item.
    """
    import numpy as np

    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.evaluation.loaded_model import evaluate_captions

    if config.method not in ("vacsr", "deterministic"):
        return {}
    test = open_split(config, "test")
    found = evaluate_captions(model, test)
    images = model.cosine_vectors(model.encode_images(list(test.images)))
    texts = model.cosine_vectors(model.encode_texts([text for texts in test.captions for text in texts]))
    cosine, score, matches = images @ texts.T, found.scores.by_match(), found.relevance == 1
    return {"two_stages": two_stages(np.asarray(cosine), score, matches)}


def two_stages(cosine, score, matches) -> dict[str, float]:
    """mAP@R of the cosine alone, of the score, and of the score on each query's CANDIDATES by the cosine.

    `correlation` is that of cosine and score over all pairs. All arrays are [images, texts].
    """
    import numpy as np

    from vacsr_jax.metrics.retrieval import average_precision_at_r

    def both(values, again=None):
        parts = [(values, matches, again), (values.T, matches.T, None if again is None else again.T)]
        return float(np.mean([precision(*part) for part in parts]))

    def precision(values, truth, again):
        if again is not None:
            below = np.argsort(-values, axis=1, kind="stable")[:, CANDIDATES:]
            values = again.astype(np.float64)
            np.put_along_axis(values, below, -np.inf, axis=1)
        asked = truth.any(axis=1)
        return np.mean(average_precision_at_r(values[asked], truth[asked]))

    return {
        "cosine": both(cosine),
        "score": both(score),
        "reranked": both(cosine, score),
        "correlation": float(np.corrcoef(cosine.ravel(), score.ravel())[0, 1]),
    }


def tables(out: Path, seeds: range) -> str:
    """The tables of finished runs: mAP@R of every part, the two stages of adapters, and every metric."""
    results = finished(out)
    return "\n\n".join([ranking_table(results, seeds), stages_table(results, seeds), *metric_tables(results, seeds)])


def draw_curves(out: Path, seeds: range) -> Path:
    """Draws how the adapters learn at the highest noise, from scratch and from pretrained towers."""
    from experiments.scenes.figures import learning_curves

    results, file = finished(out), out / "learning_curves.png"
    curves = {
        title: {
            row: found
            for row in ("deterministic", "VACSR")
            if (found := [results[x]["curve"] for x in names(part, row, NOISE[-1], seeds) if x in results])
        }
        for title, part in (("towers from scratch", "scratch"), ("pretrained towers", "trained"))
    }
    learning_curves(curves, file)
    return file


def ranking_table(results: dict[str, dict], seeds: range) -> str:
    from vacsr_jax.report.tables import format_table

    first = [cell(results, [zero_shot(seed) for seed in seeds], METRICS["mAP@R"]) for _ in NOISE]
    rows = [[ZERO_SHOT, "nothing", *first]]
    for part, (_, methods) in PARTS.items():
        for row in methods:
            rows.append(
                [row, part, *(cell(results, names(part, row, noise, seeds), METRICS["mAP@R"]) for noise in NOISE)]
            )
    return format_table(rows, ["mAP@R, known truth", "towers", *(f"{noise:.0%}" for noise in NOISE)], markdown=True)


def stages_table(results: dict[str, dict], seeds: range) -> str:
    from vacsr_jax.report.tables import format_table

    rows = []
    for part, row in [("trained", "deterministic"), ("trained", "VACSR"), *(("options", row) for row in OPTIONS)]:
        for noise in NOISE:
            found = names(part, row, noise, seeds)
            kinds = ("correlation", "cosine", "reranked", "score")
            rows.append([row, f"{noise:.0%}", *(cell(results, found, kind, "two_stages") for kind in kinds)])
    head = [
        "towers trained",
        "noise",
        "correlation",
        "cosine alone",
        f"best {CANDIDATES} ranked again",
        "all pairs scored",
    ]
    return format_table(rows, head, markdown=True)


def metric_tables(results: dict[str, dict], seeds: range) -> list[str]:
    from vacsr_jax.report.tables import format_table

    found = []
    for part, (_, methods) in PARTS.items():
        rows = []
        for noise in NOISE:
            for row in methods:
                line = names(part, row, noise, seeds)
                counted = sum(name in results for name in line)
                cells = [cell(results, line, metric) for metric in METRICS.values()]
                rows.append([row, f"{noise:.0%}", counted, *cells])
        found.append(format_table(rows, [f"towers: {part}", "noise", "seeds", *METRICS], markdown=True))
    return found


def names(part: str, row: str, noise: float, seeds: range) -> list[str]:
    return [task(part, row, noise, seed).name for seed in seeds]


def cell(results: dict[str, dict], names: list[str], metric: str, split: str = "test"):
    """Mean and standard error over the finished ones of these runs; "not run" if there are none."""
    from experiments.scenes.__main__ import mean_and_error

    runs = [results[name] for name in names if name in results]
    return mean_and_error([run[split].get(metric) for run in runs]) if runs else "not run"
