"""Audits of real pictures with wrong captions put in: emoji of an unseen vendor, and photographs of COCO."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from experiments.audit.measure import mean_and_spread
from experiments.audit.scenes import beside_truth
from experiments.beyond.words import TRUE, coverage, names_of, true_pairs, words
from experiments.emoji.__main__ import UNSEEN
from experiments.scenes.runs import result_file
from experiments.tokens.real import SHORT, coco_folder, fit, train_towers
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.noise import make_noise
from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.pretrained import load_workdir
from vacsr_jax.report.tables import format_table

METHODS = ("propensity", "sigmoid", "infonce")
NOISE = (0.2, 0.5)


def run(emoji: Path, coco: Path, out: Path, seeds: int) -> None:
    """Trains each method on pictures with wrong captions, from towers that know others, and audits unseen ones.

    The same share of the test captions is put at a wrong picture. A result that is there is not made again.
    """
    folders = {"emoji": emoji / UNSEEN[0], "coco_mini159": coco_folder(coco, out)}
    tests = {"emoji": emoji_test(emoji / UNSEEN[1]), "coco_mini159": coco_test(coco, folders["coco_mini159"])}
    for seed in range(seeds):
        towers = train_towers(emoji, out, seed)
        for data, noise, method in ((d, x, m) for d in folders for x in NOISE for m in METHODS):
            file = result_file(out, f"{data}-{method}-noise{noise}-seed{seed}")
            if file.exists():
                continue
            workdir = out / "workdirs" / file.stem
            fields = {"method": method, "model.pretrained": str(towers), "model.image_size": 0, "seed": seed}
            fit(str(folders[data]), {**fields, **SHORT, "data.noise": noise}, workdir)
            source, matches = tests[data]
            image_of = make_noise(caption_pairs(source)[1], noise, protocol="caption", seed=seed + 1000).index
            about = {"data": data, "method": method, "noise": noise, "seed": seed}
            best = load_workdir(workdir, "best")
            found = beside_truth(best, method, source, matches, image_of)
            write_text(file, to_json({"about": about, **found}))
            print(file.stem, flush=True)


def emoji_test(folder: Path) -> tuple[Source, np.ndarray]:
    """A vendor's emoji; a caption is true of all whose name, keywords and subgroup have its words."""
    source = read_image_folder(folder, split="train")
    known = [words(f"{r['name']} {' '.join(r['keywords'])} {r['label']}") for r in source.records]
    texts, owner = caption_pairs(source)
    return source, with_own(true_pairs(coverage(known, [words(text) for text in texts]))[TRUE], owner)


def coco_test(data: Path, folder: Path) -> tuple[Source, np.ndarray]:
    """Photographs with the captions that name an object; each is true of those with every object that it names."""
    entries = json.loads((data / "dataset_coco_mini159.json").read_text(encoding="utf-8"))["images"]
    objects = {entry["filename"]: frozenset(entry["objects"]) for entry in entries}
    source = read_image_folder(folder, split="test")
    names = sorted(frozenset().union(*objects.values()))
    named = [names_of(own, names) for own in source.captions]
    captions = [[c for c, n in zip(own, ns, strict=True) if n] for own, ns in zip(source.captions, named, strict=True)]
    said = [n for ns in named for n in ns if n]
    found = dataclasses.replace(source, captions=captions)
    return found, with_own(true_pairs(coverage([objects[i] for i in source.ids], said))[TRUE], caption_pairs(found)[1])


def with_own(matches: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The truth, and that each caption is true of the picture that it was written for."""
    matches = matches.copy()
    matches[owner, np.arange(len(owner))] = True
    return matches


def tables(out: Path) -> str:
    """The results in `out`, mean ± standard deviation over the seeds."""
    runs = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    labels, matches = [], []
    for data, noise, method in dict.fromkeys(
        (r["about"]["data"], r["about"]["noise"], r["about"]["method"]) for r in runs
    ):
        about = {"data": data, "noise": noise, "method": method}
        mine = [run for run in runs if about.items() <= run["about"].items()]
        head = [data, f"{noise:.0%}", method, len(mine)]
        for name in mine[0]["labels"]:
            columns = ("AUROC", "AP", "precision", "ECE", "share")
            labels.append([*head, name, *(mean_and_spread(mine, "labels", name, x) for x in columns)])
        for name in mine[0]["matches"]:
            columns = ("first 500", "first 2500", "AP", "ECE")
            line = [mean_and_spread(mine, "matches", name, x) for x in columns]
            counts = [mean_and_spread(mine, "expected", x) for x in ("estimate", "truth")]
            matches.append([*head, name, *line, *(counts if name == "p_match" else ("–", "–"))])
    first = ["data", "noise", "model", "seeds", "by"]
    of_labels = [*first, "AUROC", "AP", "precision", "ECE", "mean p"]
    of_matches = [*first, "first 500", "first 2,500", "AP", "ECE", "missing", "truly missing"]
    return (
        f"## Real pictures: wrong labels\n\n{format_table(labels, of_labels, markdown=True)}\n\n"
        f"## Real pictures: missing matches\n\n{format_table(matches, of_matches, markdown=True)}"
    )
