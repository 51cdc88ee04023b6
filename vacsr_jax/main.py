"""The command line: `vacsr VERB`, each with --help. The verbs are in `cli/`."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import warnings

from vacsr_jax.cli import classification, data, entropy, models, score, search, standardize
from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.cli.verbs import parse as parse_verb

ORDINARY = warnings.formatwarning
MODULES = (models, classification, data, score, search, standardize, entropy)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. A user's mistake ends with one message and exit status 2, never with a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    options.command = shlex.join(["vacsr", *arguments])
    quiet()
    try:
        options.run(options, overrides)
    except KeyboardInterrupt as stopped:
        said = str(stopped) or "the same command again goes on from the last checkpoint"
        print(f"\nvacsr: stopped; {said}", file=sys.stderr)
        sys.exit(128 + getattr(stopped, "signal", signal.SIGINT))  # as a shell reports a program that a signal ended
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
    """Libraries' information that no user asked for stays out of the terminal; warnings of ours are one line each."""
    warnings.formatwarning = format_warning
    sys.unraisablehook = report_unraisable
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs as an error


def format_warning(message, category, *where, **line) -> str:
    return f"vacsr: {message}\n" if category is UserWarning else ORDINARY(message, category, *where, **line)


def report_unraisable(unraisable) -> None:
    """All but what TensorStore's threads say, many times, after a save that failed: that one is raised already."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
