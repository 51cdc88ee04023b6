"""The command line: `vacsr VERB`, each with --help. The verbs are in `cli/`."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys

from vacsr_jax.cli import classification, data, models, score, search, standardize
from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.cli.verbs import parse as parse_verb

MODULES = (models, classification, data, score, search, standardize)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. A user's mistake ends with one message and exit status 2, never with a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    options.command = shlex.join(["vacsr", *arguments])
    quiet()
    try:
        options.run(options, overrides)
    except KeyboardInterrupt:
        sys.exit("\nvacsr: stopped; the same command again goes on from the last checkpoint")
    except (ValueError, OSError) as error:
        print(f"vacsr {options.verb}: {error}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a verb, and the `--config...` arguments that ml_collections reads."""
    parser = argparse.ArgumentParser(prog="vacsr", description="Variational similarity of images and texts.")
    verbs = Verbs(parser)
    for module in MODULES:
        module.register(verbs)
    return parse_verb(parser, arguments)


def quiet() -> None:
    """Libraries' information that no user asked for stays out of the terminal; warnings of ours remain."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
