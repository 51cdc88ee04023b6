"""Does it help to clean, and to add what was found? Models of scenes trained on corrected labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.special import expit

from experiments.audit.measure import mean_and_spread
from experiments.audit.scenes import label_posteriors
from experiments.audit.trained import Cell, train_one
from experiments.scenes.runs import Task, finished, make_config, result_file
from vacsr_jax.audit.judge import Judge, Labelled
from vacsr_jax.audit.lists import write_csv
from vacsr_jax.audit.stream import Seen, look
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.noise import make_noise
from vacsr_jax.data.scenes import relevance
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.pretrained import load
from vacsr_jax.report.tables import format_table

NOISE = (0.2, 0.5)
DROP = 0.5  # labels with p_wrong of this or more
EXTRA = 20_000  # pairs that are added to 60,000 labels
CLEANED = ("given", "cleaned by ours", "cleaned by the truth")
ADDED = ("none", "found", "random", "oracle")


def run(out: Path, seeds: int) -> None:
    """Trains what has no result yet; the model of the labels as given makes the lists of the others."""
    for seed in range(seeds):
        for noise in NOISE:
            train_one(Cell("propensity", noise).task(seed), out)
            for kind in CLEANED[1:]:
                train_one(cleaned_task(out, noise, seed, kind), out)
        train_one(Cell("propensity", 0.0).task(seed), out)
        for kind in ADDED[1:]:
            train_one(added_task(out, seed, kind), out)


def name_of(kind: str, noise: float, seed: int) -> str:
    return f"{kind.replace(' ', '_')}-noise{noise}-seed{seed}"


def cleaned_task(out: Path, noise: float, seed: int, kind: str) -> Task:
    """The run of `Cell("propensity", noise)` without the labels that an audit, or the truth, calls wrong."""
    given = Cell("propensity", noise).task(seed)
    file = (out / "lists" / f"{name_of(kind, noise, seed)}.csv").absolute()
    name = name_of(kind, noise, seed)
    if not file.exists() and not result_file(out, name).exists():
        source = open_split(make_config(given.fields), "train")
        truth = caption_pairs(source)[1]
        image_of = make_noise(truth, noise, protocol="caption", seed=seed).index
        wrong = image_of != truth
        if kind == CLEANED[1]:
            wrong = expit(label_posteriors(load(out / "measured" / given.name), source, image_of)[0]) >= DROP
        captions = np.flatnonzero(wrong)
        write_csv(file, ("image_index", "caption_index"), zip(image_of[captions], captions, strict=True))
    return Task(name, given.fields | {"data.dropped_labels": str(file)})


def added_task(out: Path, seed: int, kind: str) -> Task:
    """The run on clean labels with `EXTRA` more pairs: those an audit found, random ones, or true ones."""
    given = Cell("propensity", 0.0).task(seed)
    file = (out / "lists" / f"extra_{kind}-seed{seed}.csv").absolute()
    name = name_of(f"extra {kind}", 0.0, seed)
    if not file.exists() and not result_file(out, name).exists():
        source = open_split(make_config(given.fields), "train")
        image_of = caption_pairs(source)[1]
        if kind == "found":
            judge = Judge(load(out / "measured" / given.name), Labelled(source, image_of), np.arange(len(source)))
            seen = Seen.nothing(len(image_of), EXTRA)
            look(judge, judge.fit(), seen)
            pairs = seen.best.sorted()[1]
        else:
            pairs = drawn(source, image_of, seed, true=kind == "oracle")
        write_csv(file, ("image_index", "caption_index"), pairs.tolist())
    return Task(name, given.fields | {"data.extra_positives": str(file)})


def drawn(source, image_of: np.ndarray, seed: int, *, true: bool) -> np.ndarray:
    """`EXTRA` unlabelled pairs: a random caption with a random image, or with a random one that it is true of."""
    rng = np.random.default_rng([seed, 9])
    found: list[tuple[int, int]] = []
    for block in np.array_split(rng.permutation(len(image_of)), 100):
        facts = [source.facts[j] for j in block]
        matches = relevance(facts, source.layout) == 1 if true else np.ones((len(source), len(block)), bool)
        matches[image_of[block], np.arange(len(block))] = False
        for k, j in enumerate(block):
            rows = np.flatnonzero(matches[:, k])
            if len(rows):
                found.append((int(rng.choice(rows)), int(j)))
        if len(found) >= EXTRA:
            break
    return np.array(found[:EXTRA])


def tables(out: Path) -> str:
    """mAP@R of each training set, mean ± standard deviation over the seeds."""
    results = finished(out)

    def line(names: list[str], files: list[Path]) -> list:
        runs = [results[name] for name in names if name in results]
        sizes = [str(len(list(csv.reader(file.open()))) - 1) for file in files if file.exists()]
        columns = ("true/mAP@R", "true/i2t/mAP@R", "true/t2i/mAP@R", "i2t/R@1", "t2i/R@1")
        return [len(runs), ", ".join(sizes) or "–", *(mean_and_spread(runs, "test", c) for c in columns)]

    rows = []
    for noise in NOISE:
        for kind in CLEANED:
            given = [Cell("propensity", noise).task(seed).name for seed in range(3)]
            names = given if kind == CLEANED[0] else [name_of(kind, noise, seed) for seed in range(3)]
            files = [out / "lists" / f"{name}.csv" for name in names]
            rows.append([f"{noise:.0%}", kind, *line(names, files)])
    added = []
    for kind in ADDED:
        names = [name_of(f"extra {kind}", 0.0, seed) for seed in range(3)]
        if kind == ADDED[0]:
            names = [Cell("propensity", 0.0).task(seed).name for seed in range(3)]
        files = [out / "lists" / f"extra_{kind}-seed{seed}.csv" for seed in range(3)]
        added.append([kind, *line(names, files)])
    columns = ["seeds", "corrections", "mAP@R", "i2t", "t2i", "R@1 i2t", "R@1 t2i"]
    return (
        f"## Training on cleaned labels\n\n{format_table(rows, ['noise', 'labels', *columns], markdown=True)}\n\n"
        f"## Training with {EXTRA:,} more positives, clean labels\n\n"
        f"{format_table(added, ['added', *columns], markdown=True)}"
    )
