"""Reports which files of a benchmark were found, which are missing, and where they belong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vacsr_jax.data.classification.benchmarks import Benchmark, find_benchmark
from vacsr_jax.data.classification.protocol import split_labels
from vacsr_jax.data.classification.stores import Store, open_store
from vacsr_jax.data.classification.tables import SPLITS, Table, read_table


@dataclass(frozen=True)
class Found:
    """The result of a check.

    Attributes:
      complete: whether every image of every split was found, in the published numbers.
      lines: descriptions of what was found.
      problems: what is missing or different, and what to do.
    """

    name: str
    complete: bool
    lines: list[str]
    problems: list[str]


def check_benchmark(name: str, root: str | Path, tfds_dir: str = "") -> Found:
    """Checks a data set's manifest and every image that it lists.

    Raises:
      ValueError: for an unknown name.
    """
    benchmark = find_benchmark(name, root)
    lines, problems = [], []
    try:
        store = open_store(benchmark, root, tfds_dir)
        lines.append(f"images: {store.folder}, {len(store.paths()):,} found")
        table = read_table(benchmark, root, store.paths)
        lines += describe(table)
        problems += differences(benchmark, table) + missing(table, store)
    except ValueError as error:
        problems.append(str(error))
    if problems and benchmark.source:
        problems.append(f"images come from {benchmark.source}")
    if problems and benchmark.dead:
        problems.append(f"dead link: {benchmark.dead}")
    return Found(name, not problems, lines, problems)


def describe(table: Table) -> list[str]:
    """Describes the numbers of classes and images, and the sizes of the halves."""
    labels = range(len(table.class_names))
    sizes = ", ".join(f"{split} {len(table.splits[split]):,}" for split in SPLITS if split in table.splits)
    lines = [f"{len(labels)} classes; images: {sizes}"]
    test = table.splits.get("test", ())
    if len(labels) > 1:
        base, new = (set(split_labels(labels, subset)) for subset in ("base", "new"))
        counts = [sum(item.label in half for item in test) for half in (base, new)]
        lines.append(f"base / new: {len(base)} / {len(new)} classes, {counts[0]:,} / {counts[1]:,} test images")
    return lines


def differences(benchmark: Benchmark, table: Table) -> list[str]:
    """Lists where the table's counts differ from the published ones."""
    found = []
    if benchmark.classes not in (None, len(table.class_names)):
        found.append(f"classes: got {len(table.class_names)}, expected {benchmark.classes}")
    for split, expected in benchmark.counts.items():
        got = len(table.splits.get(split, ()))
        if got != expected:
            found.append(f"{split}: got {got:,} images, expected {expected:,}")
    return found


def missing(table: Table, store: Store) -> list[str]:
    """Says how many of the table's images the store lacks, with an example."""
    lacking = [item.path for items in table.splits.values() for item in items if not store.has(item.path)]
    total = sum(len(items) for items in table.splits.values())
    return [f"{len(lacking):,} of {total:,} images are missing, such as {lacking[0]}"] if lacking else []
