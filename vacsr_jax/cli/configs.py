"""`vacsr configs`: lists the published configs, and prints one."""

from __future__ import annotations

import argparse
import ast

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.config_files import find_config, published

EXAMPLE = """example:
  vacsr configs
  vacsr configs show scenes

`vacsr configs show scenes > mine.py` gives a file of your own to start from: vacsr train --config=mine.py ...
`vacsr configs show default` prints every field, with its default and what it does."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("configs", run, "List the published configs, or print one.", EXAMPLE)
    parser.add_argument("action", nargs="?", choices=("show",), help="print a config instead of listing all")
    parser.add_argument("name", nargs="?", help="the config to print")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    if options.action == "show" and options.name is None:
        raise ValueError(f"show: name a config: {', '.join(published())}")
    if options.action == "show":
        print(find_config(options.name).read_text(encoding="utf-8"), end="")
        return
    width = max(map(len, published()))
    for name in published():
        print(f"{name:{width}}  {summary(name)}")


def summary(name: str) -> str:
    """The first line of a published config's docstring."""
    docstring = ast.get_docstring(ast.parse(find_config(name).read_text(encoding="utf-8")))
    return docstring.partition("\n")[0] if docstring else ""
