"""`vacsr classify`: any model as a classifier of a benchmark, zero-shot or trained."""

from __future__ import annotations

import argparse

CLASSIFY_EXAMPLE = """example:
  vacsr classify --model=openai/clip-vit-base-patch16 --root=DATA --dataset=eurosat --template=per-dataset
  vacsr classify --model=runs/eurosat --root=DATA --dataset=eurosat --split=test_new --out=new.json

Every image against one prompt for each class; accuracy is the share of images. Splits: test_all, test_base (the first
ceil(n / 2) classes among themselves), test_new (the others). The JSON holds prompt, label space and a hash of the
list of images."""


def register(verbs) -> None:
    classify = verbs.add(
        "classify", run_classify, "Classify a benchmark's test images with any model.", CLASSIFY_EXAMPLE
    )
    classify.add_argument("--model", help="a workdir, an exported folder, or a Hugging Face CLIP", required=True)
    classify.add_argument("--root", help="the folder that holds all data sets", required=True)
    classify.add_argument("--dataset", help="a data set (see vacsr data check), or a folder of yours", required=True)
    classify.add_argument("--split", default="test_all", help="test_all (default), test_base, test_new")
    classify.add_argument("--template", default="single", help="single, per-dataset, or a text with {} for the name")
    classify.add_argument("--tfds", default="", help="TFDS's data_dir, to read images from there")
    classify.add_argument("--out", help="JSON file for the result")


def run_classify(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import load
    from vacsr_jax.classify import classify_split
    from vacsr_jax.data.classification.source import open_classes

    source = open_classes(options.dataset, options.root, options.split, tfds_dir=options.tfds)
    classify_split(load(options.model), source, options.template, options.split, options.out)
