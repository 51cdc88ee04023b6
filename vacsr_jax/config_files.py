"""Config files: finds and runs them, locks the config, and applies `--config.field=value`.

The published configs are the files of `configs/`. An installed package has them inside itself, so that
`--config=scenes` works from any folder.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.machinery
import importlib.util
import re
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "published" / "configs"  # where setup.py puts them in a wheel
PUBLISHED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def load_config(path: str, overrides: list[str]):
    """Returns the locked config of a file, with every `--config.field=value` applied.

    Raises:
      ValueError: if the file or its argument is wrong, a field is unknown (the message names similar ones), or a value
        has another type than the field.
    """
    name, colon, argument = split_argument(path)
    file = find_config(name)
    with importable(file.resolve().parent.parent, Path.cwd(), after=PUBLISHED.parent):
        config = run_config_file(file, [argument] if colon else [])
    return apply_overrides(config, overrides)


def split_argument(path: str) -> tuple[str, str, str]:
    """Splits FILE:ARGUMENT at its first colon that is not part of a drive such as `C:\\`."""
    drive = re.match(r"[A-Za-z]:(?=[\\/])", path)
    start = drive.end() if drive else 0
    name, colon, argument = path[start:].partition(":")
    return path[:start] + name, colon, argument


def find_config(name: str) -> Path:
    """Returns the config file of this path or, where there is none, the published config of this name.

    Raises:
      ValueError: if there is neither.
    """
    file = Path(name)
    if file.is_file():
        return file
    if name in published():
        return PUBLISHED / f"{name}.py"
    near = difflib.get_close_matches(file.stem, published(), n=1, cutoff=0.6)
    hint = f"did you mean --config={near[0]}?" if near else f"the published ones are {', '.join(published())}"
    raise ValueError(f"--config: no file {name!r}; give a file of your own, or the name of a published config; {hint}")


def published() -> list[str]:
    """The names of the published configs."""
    return sorted(file.stem for file in PUBLISHED.glob("*.py") if file.stem != "__init__")


def described_fields() -> dict[str, tuple[str, str]]:
    """Each field of `configs/default.py` -> its default, as written there, and its comment.

    The file is read, not run, because running it takes seconds of imports.
    """
    field = re.compile(r"    config\.([\w.]+) = (.*?)(?:  # (.*))?")
    found: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (PUBLISHED / "default.py").read_text(encoding="utf-8").splitlines():
        match = field.fullmatch(line)
        if match and match[2] != "ConfigDict()":
            found[match[1]] = (match[2], match[3] or " ".join(above))
        above = [*above, line.removeprefix("    # ")] if line.startswith("    # ") else []
    return found


def run_config_file(file: Path, arguments: list[str]):
    """Returns the locked result of a file's `get_config(*arguments)`; ValueError, with the file's name, if it fails."""
    loader = importlib.machinery.SourceFileLoader("config", str(file))
    spec = importlib.util.spec_from_loader("config", loader)
    assert spec is not None  # a loader of a source file always has one
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        return module.get_config(*arguments).lock()
    except (Exception, SystemExit) as error:  # a config is code of the user's, which may raise anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--config: {file}: {kind}{error}") from error


def with_new_fields(config):
    """A model's saved config, with the fields that came after it at their defaults; locked."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        _add_missing(config, run_config_file(PUBLISHED / "default.py", []))
    return config.lock()


def _add_missing(config, default) -> None:
    for name, value in default.items():
        if name not in config:
            config[name] = value
        elif hasattr(value, "items") and hasattr(config[name], "items"):
            _add_missing(config[name], value)


def apply_overrides(config, overrides: list[str]):
    """Applies every `--config.field=value` to a locked config; see `load_config`."""
    from absl import flags
    from ml_collections import config_flags

    known = list(_leaves(config))
    for override in overrides:
        name, equals, _ = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"got {override}, expected --config.FIELD=VALUE")
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.5) or [n for n in known if name.split(".")[-1] in n]
            raise ValueError(f"config has no field {name!r}; did you mean {' or '.join(near or sorted(known))}?")
    values = flags.FlagValues()
    arguments = ["vacsr", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, ValueError, TypeError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    return values["config"].value


def _leaves(config, prefix: str = ""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@contextlib.contextmanager
def importable(*folders: Path, after: Path):
    """Lets a config import files beside it, and published ones (`from configs import default`), from any folder."""
    before = list(sys.path)
    sys.path[:] = [*map(str, folders), *before, str(after)]
    try:
        yield
    finally:
        sys.path[:] = before
