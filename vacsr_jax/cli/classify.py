"""`vacsr classify`: classifies a benchmark's test images with any model, zero-shot or trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr classify --model=openai/clip-vit-base-patch16 --root=DATA --dataset=eurosat --template=per-dataset
  vacsr classify --model=runs/eurosat --root=DATA --dataset=eurosat --split=test_new --out=new.json

Scores every image against one prompt for each class. The accuracy is the share of correct images. Splits: test_all,
test_base (the first ceil(n / 2) classes among themselves), test_new (the others). The JSON holds the prompt, the label
space and a hash of the list of images."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("classify", run, "Classify a benchmark's test images with any model.", EXAMPLE)
    parser.add_argument(
        "--model", help="a workdir, an export, a name of `vacsr models`, or a CLIP, SigLIP or OpenCLIP", required=True
    )
    parser.add_argument("--root", help="the folder that holds all data sets", required=True)
    parser.add_argument("--dataset", help="a data set (see vacsr data check), or your own folder", required=True)
    parser.add_argument("--split", default="test_all", help="test_all (default), test_base, test_new")
    parser.add_argument("--template", default="single", help="single, per-dataset, or a text with {} for the name")
    parser.add_argument("--tfds", default="", help="TFDS's data_dir, to read images from it")
    parser.add_argument("--out", help="JSON file for the result")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.classification.source import open_classes
    from vacsr_jax.evaluation.loaded_model import evaluate_classes
    from vacsr_jax.pretrained import load
    from vacsr_jax.report.accuracies import accuracy_table

    source = open_classes(options.dataset, options.root, options.split, tfds_dir=options.tfds)
    result = evaluate_classes(load(options.model), source, options.template)
    print(accuracy_table({"model": {options.split: result}}))
    if options.out:
        write_text(Path(options.out), to_json(result))
