"""`vacsr data check | shots`: what of a data set is there, and the exact few-shot draws."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHECK_EXAMPLE = """example:
  vacsr data check eurosat --root=DATA
  vacsr data check classification --root=DATA
  vacsr data check oxford_pets --root=DATA --tfds=~/tensorflow_datasets
  vacsr data check coco --root=COCO

Says what is found below the root, what is missing, where it belongs and where to get it. Ends with status 1 if
something is missing."""

SHOTS_EXAMPLE = """example:
  vacsr data shots --manifest=split_zhou_EuroSAT.json --shots=16 --seed=1 --subset=all --out=shots.json
  vacsr data shots --dataset=imagenet --root=DATA --shots=16 --seed=1 --out=imagenet_shots.json

Writes {"train": [[path, label, name], ...], "val": [...]}, 16 and 4 images of each class in CoOp's order (ImageNet has
no val). With --subset=base (the first ceil(n / 2) classes) or new (the others) the draw is the same, the other
classes' images are dropped and labels are renumbered from 0 within the subset. Prints the file's SHA-256."""


def register(verbs) -> None:
    data = verbs.group("data", "Check data sets and draw few-shot lists.")
    check = data.add("check", run_check, "Say what of a data set is there and what is missing.", CHECK_EXAMPLE)
    check.add_argument("name", help="coco, flickr30k, flickr8k, a set of classes, or classification: all 15 of these")
    check.add_argument(
        "--root", help="the folder of the captions' data set, or that of all sets of classes", required=True
    )
    check.add_argument("--tfds", default="", help="TFDS's data_dir, to look there for the images")

    shots = data.add("shots", run_shots, "Write the images of a few-shot draw.", SHOTS_EXAMPLE)
    source = shots.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", help="a split_zhou_*.json")
    source.add_argument("--dataset", help="a data set below --root")
    shots.add_argument("--root", default=".", help="with --dataset: the folder that holds all data sets")
    shots.add_argument("--shots", type=int, default=16, help="images of each class (default: 16)")
    shots.add_argument("--seed", type=int, default=1, help="of the draw (default: 1)")
    shots.add_argument("--subset", default="all", choices=("all", "base", "new"), help="classes to keep")
    shots.add_argument("--out", help="JSON file to write", required=True)


def run_check(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.data.captions.check import SOURCES, check_captions
    from vacsr_jax.data.classification.benchmarks import BENCHMARKS
    from vacsr_jax.data.classification.check import check_benchmark

    names = BENCHMARKS if options.name == "classification" else [options.name]
    found = [
        (check_captions if name in SOURCES else check_benchmark)(name, options.root, options.tfds) for name in names
    ]
    for one in found:
        print(f"{one.name}: {'complete' if one.complete else 'INCOMPLETE'}")
        print("".join(f"  {line}\n" for line in (*one.lines, *one.problems)), end="")
    if not all(one.complete for one in found):
        sys.exit(1)


def run_shots(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import write_text
    from vacsr_jax.data.classification import protocol
    from vacsr_jax.data.classification.source import load_benchmark
    from vacsr_jax.data.classification.tables import read_zhou_json

    table = read_zhou_json(options.manifest) if options.manifest else load_benchmark(options.dataset, options.root)[1]
    train, val = protocol.shots_of_subset(table, shots=options.shots, seed=options.seed, subset=options.subset)
    text = protocol.to_manifest(train, val)
    write_text(Path(options.out), text)
    print(f"{options.out}: train {len(train)}, val {len(val)}, sha256 {protocol.manifest_hash(text)}")
