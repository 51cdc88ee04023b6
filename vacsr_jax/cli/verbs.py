"""How a verb joins the command line: its options, the function it runs, and an example in its --help."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable

REQUIRED = "the following arguments are required"  # how argparse begins to complain
Run = Callable[[argparse.Namespace, list[str]], None]


class VerbParser(argparse.ArgumentParser):
    """A parser whose complaint of missing options also names the unknown ones: a misspelt option is both."""

    given: list[str]

    def parse_known_args(self, args=None, namespace=None):
        self.given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = [a for a in getattr(self, "given", ()) if a.startswith("--") and a.split("=")[0] not in flags]
        unknown = [a for a in unknown if not a.startswith("--config.")]
        if message.startswith(REQUIRED) and unknown:
            message += f"; unknown argument {unknown[0]!r}"
        super().error(message)


class Once(argparse.Action):
    """An option that may be given once: a shell makes several of one with unquoted braces."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            given = f"{option_string}={values}"
            parser.error(f"{option_string} is given more than once; quote an argument with braces: {given!r}")
        setattr(namespace, self.dest, values)


class Verbs:
    """The verbs below a parser.

    A verb is one file of this folder. Its `register(verbs)` calls `add`, then adds options to the parser that it gets.
    Its `run(options, overrides)` does the work. It imports slow modules (JAX) itself, so that --help answers at once.
    `vacsr_jax.main.VERBS` lists the files.
    """

    def __init__(self, parser: argparse.ArgumentParser, prefix: str = ""):
        self._parsers = parser.add_subparsers(required=True, metavar="VERB", parser_class=VerbParser)
        self._prefix = prefix
        self._groups: dict[str, Verbs] = {}

    def add(
        self, name: str, run: Run, summary: str, example: str, *, takes_config: bool = False
    ) -> argparse.ArgumentParser:
        """Adds a verb that calls `run(options, overrides)`, and returns its parser.

        Args:
          summary: one sentence, for the list of verbs and for the verb's own --help.
          example: printed below the options.
          takes_config: accept `--config.FIELD=VALUE`. `overrides` are these arguments, and otherwise an empty list.
        """
        parser = self._parsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.set_defaults(run=run, verb=self._prefix + name, takes_config=takes_config, parser=parser)
        return parser

    def group(self, name: str, summary: str) -> Verbs:
        """Returns a verb that has its own verbs, as in `vacsr data check`; the same object for the same name."""
        if name not in self._groups:
            parser = self._parsers.add_parser(name, help=summary, description=summary)
            self._groups[name] = Verbs(parser, f"{self._prefix}{name} ")
        return self._groups[name]


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns a verb's options and `--config.` arguments; an unknown option ends the program, with a suggestion."""
    options, rest = parser.parse_known_args(arguments)
    unknown = [a for a in rest if not (options.takes_config and a.startswith("--config."))]
    if unknown:
        flags = [flag for action in options.parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], flags)
        hint = f" (did you mean {near[0]}?)" if near else ""
        fields = "; set a field with --config.FIELD=VALUE" if options.takes_config else ""
        options.parser.error(f"unknown argument {unknown[0]!r}{hint}{fields}")
    return options, rest
