"""`vacsr models`: lists the trained models that come with the package."""

from __future__ import annotations

import argparse

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.shipped_models import about, shipped

EXAMPLE = """example:
  vacsr models

Every command takes these names as --model, for example `vacsr evaluate --model=scenes`. So do vacsr_jax.load and
--config.model.pretrained. A folder of the same name in the current folder goes first."""


def register(verbs: Verbs) -> None:
    verbs.add("models", run, "List the trained models that come with the package.", EXAMPLE)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    width = max(map(len, shipped()))
    for name in shipped():
        print(f"{name:{width}}  {about(name)}")
