"""The few-shot protocol on tables: draws, base and new classes, label spaces, prompts. Pure functions.

They follow CoOp (Zhou et al. 2022) and its library Dassl. Their draws depend only on the order of the list and the
standard library's random, so they are the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from vacsr_jax.data.classification.benchmarks import SINGLE, TEMPLATES, Benchmark
from vacsr_jax.data.classification.tables import Item, Table

SUBSETS = ("all", "base", "new")
MAX_VAL_SHOTS = 4


def draw_shots(train: Sequence[Item], val: Sequence[Item], *, shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Draws `shots` training images and min(shots, 4) validation images of each class, in CoOp's order.

    Classes come in the order of their first appearance in the list. `random.sample` draws from each in turn; validation
    continues the stream of training. A class with too few images gives all of them, in order.

    Raises:
      ValueError: if shots < 1.
    """
    if shots < 1:
        raise ValueError(f"shots: got {shots}, expected at least 1")
    rng = random.Random(seed)
    return _sample(train, shots, rng), _sample(val, min(shots, MAX_VAL_SHOTS), rng)


def _sample(items: Sequence[Item], count: int, rng: random.Random) -> list[Item]:
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn = []
    for own in by_label.values():
        drawn += rng.sample(own, count) if len(own) >= count else own
    return drawn


def split_labels(labels: Sequence[int], subset: str) -> list[int]:
    """Returns the sorted labels of a subset of the n classes: all; base, the first ceil(n / 2); new, the others.

    Raises:
      ValueError: for an unknown or empty subset.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset: got {subset!r}, expected one of {', '.join(SUBSETS)}")
    ordered = sorted(set(labels))
    half = -(-len(ordered) // 2)
    kept = {"all": ordered, "base": ordered[:half], "new": ordered[half:]}[subset]
    if not kept:
        raise ValueError(f"subset {subset}: no class is left of {len(ordered)}; halves need at least two classes")
    return kept


def restrict(items: Sequence[Item], labels: Sequence[int]) -> list[Item]:
    """Keeps the items of these labels, renumbered 0, 1, 2, ... in the order of `labels`; names stay."""
    number = {label: i for i, label in enumerate(labels)}
    return [item._replace(label=number[item.label]) for item in items if item.label in number]


def shots_of_subset(table: Table, *, shots: int, seed: int, subset: str) -> tuple[list[Item], list[Item]]:
    """Draws from all classes, then keeps the subset's part with labels renumbered from 0, as CoOp does.

    So a class has the same images in "all", "base" and "new".
    """
    train, val = draw_shots(table.splits.get("train", ()), table.splits.get("val", ()), shots=shots, seed=seed)
    labels = split_labels(range(len(table.class_names)), subset)
    return restrict(train, labels), restrict(val, labels)


def to_manifest(train: Sequence[Item], val: Sequence[Item]) -> str:
    """Returns the JSON text {"train": [[path, label, name], ...], "val": [...]}, one item per line."""
    parts = []
    for name, items in (("train", train), ("val", val)):
        rows = ",\n".join(json.dumps(list(item)) for item in items)
        parts.append(f'"{name}": [\n{rows}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def manifest_hash(text: str) -> str:
    """Returns the SHA-256 of a manifest's bytes, as `sha256sum` prints it for the file."""
    return hashlib.sha256(text.encode()).hexdigest()


def find_template(benchmark: Benchmark, template: str) -> str:
    """Returns the template for `single` ("a photo of a {}.", as MMA), `per-dataset` (CoOp's), or a text with {}.

    Raises:
      ValueError: for a text without {}.
    """
    if template in TEMPLATES:
        return SINGLE if template == "single" else benchmark.template
    if "{}" not in template:
        raise ValueError(f"template: got {template!r}, expected one of {', '.join(TEMPLATES)} or a text with {{}}")
    return template


def prompts(class_names: Sequence[str], template: str) -> list[str]:
    """Returns one text per class; `_` in a name becomes a space."""
    return [template.replace("{}", name.replace("_", " ")) for name in class_names]
