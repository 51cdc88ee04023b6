"""`vacsr data check`: tells which parts of a data set are there, and which are missing."""

from __future__ import annotations

import argparse
import sys

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.data.captions.known import KNOWN

GROUP = ("data", "Check data sets and draw few-shot lists.")

EXAMPLE = """example:
  vacsr data check eurosat --root=DATA
  vacsr data check classification --root=DATA
  vacsr data check oxford_pets --root=DATA --tfds=~/tensorflow_datasets
  vacsr data check coco --root=COCO

Prints what is found below the root, what is missing, where it belongs and where to get it. The exit status is 1 if
something is missing."""


def register(verbs: Verbs) -> None:
    parser = verbs.group(*GROUP).add("check", run, "Tell which parts of a data set are there or missing.", EXAMPLE)
    parser.add_argument(
        "name", help=f"{', '.join(KNOWN)}, a classification data set, or classification: all 15 of these"
    )
    parser.add_argument(
        "--root", help="the folder of a caption data set, or the one with all classification sets", required=True
    )
    parser.add_argument("--tfds", default="", help="TFDS's data_dir, to look for the images in it")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.data.captions.check import check_captions
    from vacsr_jax.data.classification.benchmarks import BENCHMARKS
    from vacsr_jax.data.classification.check import check_benchmark

    names = BENCHMARKS if options.name == "classification" else [options.name]
    found = [(check_captions if name in KNOWN else check_benchmark)(name, options.root, options.tfds) for name in names]
    for one in found:
        print(f"{one.name}: {'complete' if one.complete else 'INCOMPLETE'}")
        print("".join(f"  {line}\n" for line in (*one.lines, *one.problems)), end="")
    if not all(one.complete for one in found):
        sys.exit(1)
