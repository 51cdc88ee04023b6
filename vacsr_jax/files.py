"""Whole files or none."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it over `path`: a failure leaves the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a temporary folder beside `folder`, then puts it in its place: a failure leaves the old one."""
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: naming the file, if it is no UTF-8 text or no JSON.
      OSError: if it cannot be opened.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from None


def parse_json(text: bytes) -> Any:
    """What a JSON text holds; ValueError, "not ...", for what is no UTF-8, no JSON, or nested deeper than it can be."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error})") from None
    except RecursionError:
        raise ValueError("not JSON that can be read (brackets are nested thousands deep)") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None


def to_json(values: Any) -> str:
    """Indented JSON; numbers that are not finite become null, since JSON has none."""

    def clean(x):
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [clean(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(values), indent=2, allow_nan=False) + "\n"
