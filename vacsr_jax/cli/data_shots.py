"""`vacsr data shots`: writes the exact few-shot draw of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from vacsr_jax.cli.data_check import GROUP
from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr data shots --manifest=split_zhou_EuroSAT.json --shots=16 --seed=1 --subset=all --out=shots.json
  vacsr data shots --dataset=imagenet --root=DATA --shots=16 --seed=1 --out=imagenet_shots.json

Writes {"train": [[path, label, name], ...], "val": [...]}: 16 and 4 images of each class in CoOp's order (ImageNet has
no val). --subset=base keeps the first ceil(n / 2) classes, new the others. The draw stays the same: images of the other
classes are dropped, and labels are renumbered from 0. Prints the file's SHA-256."""


def register(verbs: Verbs) -> None:
    parser = verbs.group(*GROUP).add("shots", run, "Write the images of a few-shot draw.", EXAMPLE)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", help="a split_zhou_*.json")
    source.add_argument("--dataset", help="a data set below --root")
    parser.add_argument("--root", default=".", help="with --dataset: the folder that holds all data sets")
    parser.add_argument("--shots", type=int, default=16, help="images of each class (default: 16)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    parser.add_argument("--subset", default="all", choices=("all", "base", "new"), help="classes to keep")
    parser.add_argument("--out", help="JSON file to write", required=True)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import write_text
    from vacsr_jax.data.classification import protocol
    from vacsr_jax.data.classification.source import load_benchmark
    from vacsr_jax.data.classification.tables import read_zhou_json

    table = read_zhou_json(options.manifest) if options.manifest else load_benchmark(options.dataset, options.root)[1]
    train, val = protocol.shots_of_subset(table, shots=options.shots, seed=options.seed, subset=options.subset)
    text = protocol.to_manifest(train, val)
    write_text(Path(options.out), text)
    print(f"{options.out}: train {len(train)}, val {len(val)}, sha256 {protocol.manifest_hash(text)}")
