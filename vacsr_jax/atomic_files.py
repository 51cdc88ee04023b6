"""Writes files so that a failure leaves the old file, and reads JSON with messages that name the file."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` on a temporary file beside `path`, then renames it to `path`. A failure leaves the old file."""
    # Random, because processes of two hosts or containers may share a number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` on a temporary folder beside `folder`, then swaps the two. A failure leaves the old folder."""
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    except OSError as error:
        raise _named(error, folder) from error
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)


def _named(error: OSError, path: Path) -> OSError:
    """The error with the path that could not be written, which a full disk's does not name."""
    if error.filename is not None or error.errno is None:
        return error
    advice = "; make room, then run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return type(error)(error.errno, f"{error.strerror}{advice}", str(path))


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically, with the same bytes on every system, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def read_json(path: str | Path) -> Any:
    """Returns the contents of a JSON file.

    Raises:
      ValueError: if the file is not UTF-8 text or not JSON; the message names it.
      OSError: if the file cannot be opened.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from None


def parse_json(text: bytes) -> Any:
    """Parses JSON. Raises a ValueError that starts with "not" for invalid UTF-8, invalid JSON, or too deep nesting."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error})") from None
    except RecursionError:
        raise ValueError("not JSON that can be read (its brackets are nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None


def to_json(values: Any) -> str:
    """Returns indented JSON. NaN and infinities become null, since JSON cannot hold them."""

    def clean(x):
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [clean(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(clean(values), indent=2, allow_nan=False) + "\n"
