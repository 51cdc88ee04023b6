"""The command line, `vacsr VERB`; each verb has --help. A verb is a file in `cli/` and a name in VERBS."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import warnings

from vacsr_jax import __version__
from vacsr_jax.cli import (
    audit,
    calibrate,
    classify,
    configs,
    data_check,
    data_shots,
    embed,
    entropy,
    evaluate,
    evaluate_matrix,
    export,
    index,
    models,
    push,
    search,
    serve,
    standardize,
    train,
)
from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.cli.verbs import parse as parse_verb
from vacsr_jax.compilation_cache import keep_compiled

# The order of --help. Each module has `register(verbs)`, which adds its verb; see `cli.verbs`.
VERBS = (
    train,
    evaluate,
    calibrate,
    audit,
    embed,
    export,
    push,
    index,
    search,
    serve,
    standardize,
    entropy,
    classify,
    evaluate_matrix,
    data_check,
    data_shots,
    configs,
    models,
)
ORDINARY_FORMAT = warnings.formatwarning


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. A user's mistake ends in one message and exit status 2, never in a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    options.command = shlex.join(["vacsr", *arguments])
    quiet()
    keep_compiled()
    try:
        options.run(options, overrides)
        sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        advice = str(stopped) or "nothing was kept; the same command begins again"
        print(f"\nvacsr: stopped; {advice}", file=sys.stderr)
        sys.exit(128 + getattr(stopped, "signal", signal.SIGINT))  # how a shell reports a program ended by a signal
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        sys.exit(128 + 13)  # as a program that SIGPIPE ends
    except (ValueError, OSError) as error:
        print(f"vacsr {options.verb}: {error}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the options of a verb, and the `--config...` arguments that ml_collections reads."""
    return parse_verb(make_parser(), arguments)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(prog="vacsr", description="Variational similarity of images and texts.")
    parser.add_argument("--version", action="version", version=f"vacsr_jax {__version__}")
    verbs = Verbs(parser)
    for module in VERBS:
        module.register(verbs)
    return parser


def quiet() -> None:
    """Keeps the logs of libraries out of the terminal, and prints each of our warnings on one line."""
    warnings.formatwarning = format_warning
    sys.unraisablehook = report_unraisable
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # otherwise JAX appends a note to error messages
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs errors that it also raises


def format_warning(message, category, *where, **line) -> str:
    return f"vacsr: {message}\n" if category is UserWarning else ORDINARY_FORMAT(message, category, *where, **line)


def report_unraisable(unraisable) -> None:
    """Drops what TensorStore's threads repeat after a failed save: the error itself was raised already."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
