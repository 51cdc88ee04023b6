"""Every command in a page is one that the command line takes, and every import in a block of Python exists.

What the commands do is tested beside the code; here a misspelt option, field or name fails.
"""

import ast
import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

from vacsr_jax.config_files import load_config, split_argument
from vacsr_jax.main import parse

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "experiments", "tests", "vacsr_jax")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"(?:^|&& |=\S+ )vacsr (?=[a-z-]+(?: |$))")  # a message begins "vacsr train: "


def commands(text):
    """The `vacsr` commands of a page, without what stands in front of them, and whether each is whole."""
    blocks = [block.replace("\\\n", " ") for language, block in BLOCK.findall(text) if language in ("", "bash")]
    for line in "".join(blocks).splitlines():
        if found := COMMAND.search(line):
            yield line[found.end() :].partition(" && ")[0].partition("   #")[0], True
    for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        if found := COMMAND.match(code):
            yield code[found.end() :], False


def complaint(command, *, whole):
    """What the command line says against a command; None if it takes it, or only misses options of a part of one."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"\.\.\.|[A-Z]+|--config\.\.\.", word)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options, overrides = parse(words)
        if words[0] == "train" and options.config:
            name, colon, argument = split_argument(options.config)
            file = name if not name.startswith("configs/") else str(ROOT / name)
            if name in ("NAME", "my_config.py", "mine.py"):
                return None
            load_config(f"{file}{colon}{argument}", overrides)
    except SystemExit as ended:
        missing = "required" in said.getvalue() or "expected one argument" in said.getvalue()
        ok = ended.code == 0 or (missing and "unknown" not in said.getvalue() and (not whole or "..." in command))
        return None if ok else said.getvalue().splitlines()[-1]
    except ValueError as error:
        return str(error)
    else:
        return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_the_commands_of_a_page(page):
    found = {command: complaint(command, whole=whole) for command, whole in commands(page.read_text(encoding="utf-8"))}
    assert {command: said for command, said in found.items() if said} == {}


def test_a_wrong_command_is_found():
    page = (
        "```\nvacsr train --config=scenes --workdir=w --config.optim.lrr=1\n```\n`vacsr embed --modell=x` `vacsr trian`"
    )
    assert [bool(complaint(command, whole=whole)) for command, whole in commands(page)] == [True, True, True]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_is_valid_and_what_it_imports_exists(page):
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("vacsr_jax", "experiments"):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_experiments_have_the_options_that_a_page_gives_them(page):
    text = re.sub(r"\\\n", " ", page.read_text(encoding="utf-8"))
    for name, rest in re.findall(r"python -m (experiments[\w.]*)([^`\n]*)", text):
        path = ROOT / name.replace(".", "/")
        source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        used = set(re.findall(r"--([\w-]+)", rest.partition("   #")[0]))
        assert {name for name in used if f'"--{name}"' not in source and f'"{name}"' not in source} == set()
