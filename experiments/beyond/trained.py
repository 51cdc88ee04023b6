"""The correction on towers trained here on real pictures: emoji of unseen vendors, and 159 COCO images."""

from __future__ import annotations

import argparse
import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from experiments.beyond.corrections import LABELS, Scored, Units, both_directions, corrections, report
from experiments.beyond.words import MOSTLY, TRUE, coverage, names_of, true_pairs, words
from experiments.emoji.__main__ import TRAIN, UNSEEN
from experiments.emoji.grid import FIELDS
from experiments.emoji.truth import frequent_words, graded_relevance
from vacsr_jax.atomic_files import write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import Source, concatenate
from vacsr_jax.metrics.graded import ndcg
from vacsr_jax.pretrained import Pretrained, load_workdir
from vacsr_jax.training.loop import train

BANK = 500  # training images
HELD_OUT, TEST = 150, 300  # ids of the unseen vendors, drawn per seed: to choose weights on, and to test on
NDCG = "i2t nDCG"
FINISHED = "finished"  # a file in a workdir


def emoji(options: argparse.Namespace) -> None:
    """Ids seen in training, drawn by two unseen vendors; the bank is of the two seen vendors."""
    data, out = Path(options.data), Path(options.out)
    seen = concatenate({vendor: read_image_folder(data / vendor, split="train") for vendor in TRAIN})
    unseen = [read_image_folder(data / vendor, split="train") for vendor in UNSEEN]
    ignored = [frequent_words(read_image_folder(data / vendor).records) for vendor in UNSEEN]

    def numbers(model: Pretrained, seed: int) -> dict[str, Units]:
        rng = np.random.default_rng(seed)
        bank = embed_rows(model, seen, rng.permutation(len(seen))[:BANK])
        held, rows = np.split(rng.permutation(len(unseen[0]))[: HELD_OUT + TEST], [HELD_OUT])
        per_vendor = []
        for source, common in zip(unseen, ignored, strict=True):
            parts = [emoji_part(source, part) for part in (held, rows)]
            held_out, test = (score(model, part, bank) for part in parts)
            grades = graded_relevance(source.records, source.records, ignored=common) / 3
            owner = parts[1].owner
            per_vendor.append(
                {
                    name: evaluate_rows(held_out[name], test[name], grades[np.ix_(rows, rows[owner])])
                    for name in held_out
                }
            )
        return mean_of(per_vendor)

    path = ",".join(str(data / vendor) for vendor in TRAIN)
    tables = by_method(options, f"configs/image_folder.py:path={path}", out / "emoji", numbers)
    metrics = ("i2t R@1", "i2t R@5", f"i2t mAP@R {TRUE}", f"i2t mAP@R {MOSTLY}", NDCG, "t2i R@1", f"t2i mAP@R {TRUE}")
    report(out, "emoji", tables, metrics)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some pictures of a source with all their captions.

    Attributes:
      rows: indices of the pictures in the source.
      texts: their captions.
      owner: index in `rows` of each text's picture.
      covered: what is true, as `coverage` [pictures, texts].
    """

    source: Source
    rows: np.ndarray
    texts: list[str]
    owner: np.ndarray
    covered: np.ndarray


def emoji_part(source, rows: np.ndarray) -> Part:
    """Returns a part in which an emoji's words are those of its name, keywords and subgroup."""
    texts, owner = captions_of(source, rows)
    records = [source.records[i] for i in rows]
    seen = [words(f"{r['name']} {' '.join(r['keywords'])} {r['label']}") for r in records]
    return Part(source, rows, texts, owner, coverage(seen, [words(text) for text in texts]))


def captions_of(source: Source, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    texts = [list(dict.fromkeys(source.captions[i])) for i in rows]
    return [text for own in texts for text in own], np.repeat(np.arange(len(rows)), [len(own) for own in texts])


def coco_mini(options: argparse.Namespace) -> None:
    """A caption is true of the images that have every object it names; one that names none is not evaluated.

    Objects that a caption does not name play no part, since the caption does not claim them.
    """
    data, out = Path(options.data), Path(options.out)
    entries = json.loads((data / "dataset_coco_mini159.json").read_text(encoding="utf-8"))["images"]
    folder = unpacked(data / "images.zip", entries, out / "coco_mini" / "pictures")
    objects = {entry["filename"]: frozenset(entry["objects"]) for entry in entries}
    names = sorted(frozenset().union(*objects.values()))
    seen, held_out, test = (read_image_folder(folder, split=split) for split in ("train", "validation", "test"))

    def part(source) -> Part:
        texts, owner = captions_of(source, np.arange(len(source)))
        named = names_of(texts, names)
        named_any = np.array([bool(x) for x in named])
        kept = np.flatnonzero(named_any)
        here = [objects[f"{i}"] for i in source.ids]
        covered = coverage(here, [named[j] for j in kept])
        return Part(source, np.arange(len(source)), [texts[j] for j in kept], owner[kept], covered)

    def numbers(model: Pretrained, seed: int) -> dict[str, Units]:
        bank = embed_rows(model, seen, np.arange(len(seen)))
        ours, theirs = (score(model, part(source), bank) for source in (held_out, test))
        return {name: evaluate_rows(ours[name], theirs[name]) for name in ours}

    tables = by_method(options, f"configs/image_folder.py:path={folder}", out / "coco_mini", numbers)
    report(out, "coco_mini", tables, ("i2t R@1", "i2t R@10", f"i2t mAP@R {TRUE}", "t2i R@1", f"t2i mAP@R {TRUE}"))


def unpacked(archive: Path, entries: list[dict], folder: Path) -> Path:
    """Unpacks the set as an ImageFolder; every fifth training image becomes a validation image."""
    if not (folder / "metadata.jsonl").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if name.endswith(".jpg"):
                    (folder / Path(name).name).write_bytes(file.read(name))
        lines, n = [], 0
        for entry in entries:
            split = entry["split"]
            if split == "train":
                split, n = ("train" if n % 5 else "validation"), n + 1
            captions = [s["raw"] for s in entry["sentences"]]
            line = {"file_name": entry["filename"], "id": entry["filename"], "split": split, "captions": captions}
            lines.append(json.dumps(line))
        write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    return folder


# For both.


def by_method(options: argparse.Namespace, config: str, out: Path, numbers) -> dict[str, Units]:
    """Trains towers per method and seed; returns method -> row -> metric -> [seeds]. Finished runs are kept."""
    # Steps of one method share a compiled program, whatever the seed.
    jax.config.update("jax_compilation_cache_dir", str((out / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    found: dict[str, list[Units]] = {}
    for method in options.methods.split(","):
        for seed in range(options.seeds):
            fields = [f"--config.{field}" for field in (*FIELDS, f"seed={seed}")]
            workdir = out / "workdirs" / f"{method}-noise0.0-seed{seed}"
            if not (workdir / FINISHED).exists():
                train(load_config(f"{config},method={method}", fields), workdir)
                write_text(workdir / FINISHED, "")
            best = load_workdir(workdir, "best")
            for kind, units in numbers(best, seed).items():
                found.setdefault(f"{method}{kind}", []).append(units)
            print(f"{workdir.name}: step {best.step}", flush=True)
    return {title: stacked(units) for title, units in found.items()}


def stacked(units: list[Units]) -> Units:
    rows = units[0]
    return {row: {m: np.array([u[row][m] for u in units]) for m in rows[row]} for row in rows}


def mean_of(parts: list[dict[str, Units]]) -> dict[str, Units]:
    return {
        name: {row: {m: np.mean([p[name][row][m] for p in parts]) for m in found} for row, found in units.items()}
        for name, units in parts[0].items()
    }


def embed_rows(model: Pretrained, source: Source, rows: np.ndarray) -> np.ndarray:
    return model.encode_images([source.image(int(i)) for i in rows])


def score(model: Pretrained, part: Part, bank: np.ndarray) -> dict[str, Scored]:
    """Returns name of a score ("" if the model has only one) -> the scores of a part and of the bank."""
    images, texts = embed_rows(model, part.source, part.rows), model.encode_texts(part.texts)
    truths = {LABELS: part.owner == np.arange(len(part.rows))[:, None], **true_pairs(part.covered)}
    lengths = np.array([len(text.split()) for text in part.texts])
    generality = np.log(np.maximum(truths[TRUE].sum(axis=0), 1))
    sides = [logits(model, side, texts) for side in (images, bank)]
    return {name: Scored(*(side[name] for side in sides), truths, lengths, generality) for name in sides[0]}


def logits(model: Pretrained, images: np.ndarray, texts: np.ndarray) -> Mapping[str, np.ndarray]:
    """Returns every score that the model ranks with: one, or for a propensity model those of label and match."""
    scores = model.score(images, texts)
    if np.array_equal(scores.label_score, scores.match_score):
        return {"": scores.label_score}
    return {", label score": scores.label_score, ", match score": scores.match_score}


def evaluate_rows(held_out: Scored, test: Scored, grades: np.ndarray | None = None) -> Units:
    """Returns row -> metric -> mean over the images (i2t) or texts (t2i) of a part, for every correction."""
    found: Units = {}
    for row, bias in corrections(held_out, test, TRUE):
        found[row] = {m: np.nanmean(x) for m, x in both_directions(test, bias).items()}
        if grades is not None:
            found[row][NDCG] = np.float64(ndcg(test.scores + bias, grades))
    return found
