"""`vacsr export`: writes a trained model as safetensors and JSON."""

from __future__ import annotations

import argparse

from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr export --model=runs/scenes --out=exported
  python -c "import vacsr_jax; print(vacsr_jax.load('exported').score(['a.png'], ['a red square']))"

Writes model.safetensors, config.json and tokenizer/. Loading them does not need Orbax."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("export", run, "Write a trained model as safetensors and JSON.", EXAMPLE)
    parser.add_argument("--model", help="a workdir", required=True)
    parser.add_argument("--out", help="folder to write", required=True)
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of the workdir (default: best)")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.pretrained import load

    load(options.model, checkpoint=options.checkpoint).save(options.out)
    print(f"{options.out}: model.safetensors, config.json, tokenizer/")
