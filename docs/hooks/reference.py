"""Pages that the code writes: the options of every command, from its parser, and the fields of `configs/default.py`."""

import argparse
import html
import itertools
import re
import textwrap

from mkdocs.structure.files import File, Files

from vacsr_jax.cli.configs import summary
from vacsr_jax.config_files import described_fields, published
from vacsr_jax.main import make_parser

MARKS = re.compile(r"([*_\[\]])")  # of Markdown


def on_files(files: Files, config) -> Files:
    for place, text in (("reference/commands.md", commands()), ("reference/fields.md", fields())):
        files.append(File.generated(config, place, content=text))
    return files


def commands() -> str:
    """What `--help` of every verb says."""
    text = "# Options of every command\n\nThis page is what `vacsr VERB --help` prints.\n"
    return text + "".join(described(parser) for parser in verbs(make_parser()))


def verbs(parser: argparse.ArgumentParser):
    """The parsers of the verbs below a parser, in the order of its --help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                inner = list(verbs(below))
                yield from inner or [below]


def described(parser: argparse.ArgumentParser) -> str:
    lines = [f"\n## {parser.prog}\n", f"{escaped(parser.description)}\n"]
    for action in parser._actions:
        if action.help not in (argparse.SUPPRESS, None) and action.dest != "help":
            names = ", ".join(f"`{name}`" for name in option_names(action))
            needed = " (required)" if action.required and action.option_strings else ""
            lines.append(f"- {names}{needed}: {escaped(parser._get_formatter()._expand_help(action))}")
    lines += [f"\n{escaped(group.description)}" for group in parser._action_groups if group.description]
    example, _, notes = (parser.epilog or "").partition("\n\n")
    commands = "\n".join(line.strip() for line in example.splitlines()[1:])
    lines.append(f"\n```\n{commands}\n```" if commands else "")
    for indented, group in itertools.groupby(notes.splitlines(), lambda line: line.startswith("  ")):
        text = "\n".join(group)
        lines.append(f"\n```\n{textwrap.dedent(text)}\n```" if indented else f"\n{escaped(text)}")
    return "\n".join(lines) + "\n"


def option_names(action: argparse.Action) -> list[str]:
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    value = str(action.metavar or choices)
    if not action.option_strings:
        return [value]
    return [name if action.nargs == 0 else f"{name} {value}" for name in action.option_strings]


def fields() -> str:
    """The published configs, and every field with its default and its comment."""
    lines = ["# Fields of a config\n", "## Published configs\n", "`vacsr configs show NAME` prints one.\n"]
    lines += [f"- `{name}`: {escaped(summary(name))}" for name in published()]
    lines += ["\n`vacsr train --config=NAME --config.FIELD=VALUE` sets a field. The defaults are those of `default`."]
    before = None
    for name, (default, comment) in described_fields().items():
        group = name.rpartition(".")[0] or "The run"
        if group != before:
            lines += [f"\n## {group}\n", "| field | default | |", "|---|---|---|"]
            before = group
        lines.append(f"| `{name}` | `{default}` | {escaped(comment).replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def escaped(text: str | None) -> str:
    """The text as Markdown that shows it as it is, but for its `code`."""
    parts = re.split(r"(`[^`]*`)", text or "")
    return "".join(part if part.startswith("`") else MARKS.sub(r"\\\1", html.escape(part)) for part in parts)
