"""`vacsr push`: publishes a model on the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr push --model=runs/scenes --to=user/name
  python -c "import vacsr_jax; print(vacsr_jax.load('user/name').score(['a.png'], ['a red square']))"

Uploads model.safetensors, config.json, tokenizer/, evaluation.json of the workdir, and a model card with the table of
the evaluation, in one commit. The repository is made if it does not exist. A card that is there is kept. Log in once
with `hf auth login`, or set HF_TOKEN."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("push", run, "Publish a model on the Hugging Face hub.", EXAMPLE)
    parser.add_argument("--model", help="a workdir, or an exported folder", required=True)
    parser.add_argument("--to", metavar="USER/NAME", help="the repository", required=True)
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of a workdir (default: best)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--new_card", action="store_true", help="replace the model card that is there")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.deploy.hub import push
    from vacsr_jax.pretrained import load
    from vacsr_jax.towers.hf import read_object
    from vacsr_jax.workdir import EVALUATION

    model = load(options.model, checkpoint=options.checkpoint)
    file = Path(options.model) / EVALUATION
    evaluation = read_object(file) if file.is_file() else None
    if evaluation is not None and evaluation.get("step") != model.step:
        evaluation = None  # of another checkpoint
    address, card = push(model, options.to, evaluation=evaluation, private=options.private, new_card=options.new_card)
    print(f"{address}: vacsr_jax.load({options.to!r})")
    if not card:
        print("its README.md is kept; --new_card replaces it")
