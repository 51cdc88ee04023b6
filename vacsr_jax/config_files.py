"""Config files: runs them, locks the config, and applies `--config.field=value`."""

from __future__ import annotations

import contextlib
import difflib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def load_config(path: str, overrides: list[str]):
    """Returns the locked config of a file, with every `--config.field=value` applied.

    Raises:
      ValueError: if the file or its argument is wrong, a field is unknown (the message names similar ones), or a value
        has another type than the field.
    """
    name, colon, argument = path.partition(":")
    file = Path(name)
    if not file.is_file():
        raise ValueError(f"--config: no file {str(file)!r}; give a config file such as configs/scenes.py")
    with importable(file.resolve().parent.parent, Path.cwd()):
        config = run_config_file(file, [argument] if colon else [])
    return apply_overrides(config, overrides)


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
def importable(*folders: Path):
    """Lets a config import files beside it (`from configs import default`) from any working directory."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
