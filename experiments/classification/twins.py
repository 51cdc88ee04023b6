"""Small stand-ins for the benchmarks, written as folders that the library reads like a user's own data.

Scenes show one object; each colour and shape is a class. Base and new halves both have every colour and every shape, so
the new names are new combinations of known words. Emoji: the subgroups with enough members are the classes, with one
data set per vendor and the same ids in each.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from vacsr_jax.data.scenes import BACKGROUNDS, COLOURS, EMPTY, SHAPES, SIZES, Layout, draw_images

VENDORS = ("noto", "twemoji", "openmoji", "fluent")
MIN_MEMBERS = 8  # members of a subgroup, over all splits
# How many of the 24 ways (size, cell, background) to show an object each split has; drawn for each class.
WAYS = {"train": 16, "val": 3, "test": 5}
PER_CLASS = {"train": 100, "val": 10, "test": 40}


def scene_classes() -> list[tuple[int, int]]:
    """Returns (colour, shape) of each class, base classes (those whose indices have an even sum) first."""
    pairs = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
    return sorted(pairs, key=lambda pair: (sum(pair) % 2, pair))


def write_scenes(folder: Path, per_class: dict[str, int] = PER_CLASS, seed: int = 0) -> None:
    """Draws `folder`/SPLIT/COLOUR_SHAPE/N.png and classnames.txt. No two splits show a class in the same way."""
    rng = np.random.default_rng(seed)
    names = [f"{list(COLOURS)[colour]}_{SHAPES[shape]}" for colour, shape in scene_classes()]
    for (colour, shape), name in zip(scene_classes(), names, strict=True):
        order = rng.permutation(sum(WAYS.values()))
        ends = np.cumsum(list(WAYS.values()))
        for (split, n), ways in zip(per_class.items(), np.split(order, ends[:-1]), strict=True):
            images = draw_images(rng, one_object(colour, shape, rng.choice(ways, n)))
            (folder / split / name).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(folder / split / name / f"{i:03}.png")
    (folder / "classnames.txt").write_text("".join(f"{name} {name.replace('_', ' ')}\n" for name in names))


def one_object(colour: int, shape: int, way: np.ndarray) -> Layout:
    """Makes scenes of one object; `way` int [n] in 0..23 encodes size, cell and background."""
    size, cell, background = np.unravel_index(way, (len(SIZES), 4, len(BACKGROUNDS)))
    here = np.arange(4) == cell[:, None]
    return Layout(background, *(np.where(here, x, EMPTY) for x in (shape, colour, size[:, None])))


def write_emoji(source: Path, folder: Path, min_members: int = MIN_MEMBERS) -> int:
    """Copies each vendor's emoji of large enough subgroups to `folder`/VENDOR; returns the number of subgroups."""
    for vendor in VENDORS:
        lines = (source / vendor / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        members = Counter(record["label"] for record in records)
        kept = [record for record in records if members[record["label"]] >= min_members]
        (folder / vendor).mkdir(parents=True)
        for record in kept:
            shutil.copy(source / vendor / record["file_name"], folder / vendor / record["file_name"])
        text = "".join(json.dumps(record) + "\n" for record in kept)
        (folder / vendor / "metadata.jsonl").write_text(text, encoding="utf-8")
    return len({record["label"] for record in kept})
