"""Checksums of a checkpoint's files. Orbax notices a file that was cut short, but not one with a flipped bit."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

from vacsr_jax.atomic_files import to_json, write_text

CHECKSUMS = "checksums.json"  # in a checkpoint: the SHA-256 of each file of its items
ITEMS = ("params", "optimizer", "run", "metrics")


def write_checksums(folder: Path) -> None:
    """Writes the checksums of a checkpoint's items into its folder."""
    files = [path for item in ITEMS for path in sorted((folder / item).rglob("*")) if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    write_text(folder / CHECKSUMS, to_json(sums))


def find_damage(folder: Path, items: tuple[str, ...] = ITEMS) -> str | None:
    """Returns what is wrong with a checkpoint's items: the first file that is missing or has changed, or None.

    In a run without any checksums, every checkpoint is assumed to be whole.
    """
    if not (folder / CHECKSUMS).exists() and not any(folder.parent.glob(f"*/{CHECKSUMS}")):
        return None
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            if name.split("/")[0] not in items:
                continue
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _sha256(folder / name) != expected:
                return f"{name} was changed or cut"
    except (OSError, ValueError, AttributeError) as error:
        return f"{error}"
    return None


def set_damaged_aside(folder: Path) -> None:
    """Renames the damaged checkpoints of a folder, with a warning.

    Checkpoints written by earlier versions, without checksums, are given checksums now.

    Raises:
      ValueError: if there are checkpoints and all of them are damaged.
    """
    steps = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    damage = {path: find_damage(path) for path in steps}
    if steps and None not in damage.values():
        raise ValueError(
            f"{folder}: every checkpoint is damaged ({damage[steps[-1]]} of step {steps[-1].name}); "
            "give another --workdir, or remove this one to start again"
        )
    whole = [int(path.name) for path in steps if damage[path] is None]
    for path in steps:
        if damage[path] is not None:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            warnings.warn(
                f"{folder}: step {path.name} is damaged ({damage[path]}) and was moved to {aside.name}; "
                f"the last good one is step {whole[-1]}",
                stacklevel=2,
            )
        elif not (path / CHECKSUMS).exists():
            write_checksums(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
