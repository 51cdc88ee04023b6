"""Which files are pictures, and one walk over a folder of them.

A folder that people bring also holds what systems and programs leave there (`.DS_Store`, `.ipynb_checkpoints`,
`__MACOSX`, `Thumbs.db`), texts, links and formats that this machine cannot read. The walk leaves them out and counts
each kind, so that nothing is left out without a word.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import features

# Pillow's name of a format -> its suffixes. A file is decoded by its content, as any of these, whatever its name.
# Others may start a program: Pillow runs Ghostscript for EPS.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
FORMAT_OF = {suffix: name for name, suffixes in FORMATS.items() for suffix in suffixes}
NEEDS = {"AVIF": "a Pillow with AVIF: pip install -U pillow", "HEIF": 'pip install "vacsr_jax[heif]"'}

# Names without a leading dot that a system keeps out of its user's sight, lower-case.
HIDDEN = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}


class Pictures(NamedTuple):
    """What a walk found.

    Attributes:
      files: path in the folder, with `/` -> bytes; sorted by path.
      left_out: kind of what is no picture (a suffix, hidden file, broken link, ...) -> how many.
    """

    files: dict[str, int]
    left_out: dict[str, int]


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats of `FORMATS` that can be decoded here. HEIC needs the package pillow-heif."""
    missing = set() if features.check("avif") else {"AVIF"}
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        missing.add("HEIF")
    return tuple(name for name in FORMATS if name not in missing)


def is_picture(name: str) -> bool:
    """Tells from a file's suffix, of any case, whether it is a picture that can be decoded here."""
    return FORMAT_OF.get(_suffix(name)) in readable_formats()


def is_hidden(name: str) -> bool:
    """Tells whether a file or folder of this name is a system's or a program's, not its user's."""
    return name.startswith(".") or name.lower() in HIDDEN


def find_pictures(folder: str | os.PathLike) -> Pictures:
    """Finds the pictures of a folder and its subfolders, in the same order on every file system.

    Hidden files and folders are left out. Links to files and to folders are followed, wherever they lead, but not a
    link to a folder that contains it.

    Raises:
      OSError: if a folder cannot be read.
    """
    found: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    for name, kind, size in _walk(os.fspath(folder)):
        if kind is None:
            found[name] = size
        else:
            left_out[kind] += 1
    return Pictures(dict(sorted(found.items())), dict(sorted(left_out.items())))


def report_left_out(folder: str | os.PathLike, left_out: Mapping[str, int]) -> None:
    """Logs one line that counts what a walk left out; nothing if that is nothing."""
    if left_out:
        logging.getLogger(__name__).warning("%s: left out %s", folder, describe_left_out(left_out))


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Names what a walk left out: "2 hidden files, 1 broken link, 3 .txt"."""
    return ", ".join(f"{n:,} {kind}{'s' if n > 1 and not kind.startswith('.') else ''}" for kind, n in left_out.items())


def leaves(path: Path, folder: Path) -> bool:
    """Tells whether a path that a file of the folder lists leads out of the folder, itself or by a link.

    A snapshot of the Hugging Face hub (`models--x/snapshots/REVISION`) links to the files in `models--x/blobs`, which
    count as its own.
    """
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        return True
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    return not (real.is_relative_to(root) or (snapshots and real.is_relative_to(snapshots.parent / "blobs")))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _walk(top: str) -> Iterator[tuple[str, str | None, int]]:
    """The name, kind (None: a picture) and bytes of each file, and of each folder that is not entered."""
    # Strings, not Paths, which are several times as large; a list in place of recursion, which has a limit.
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(top, "", (_identity(top),))]
    while waiting:
        folder, prefix, above = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name, kind, size = prefix + entry.name, None, 0
                try:
                    if entry.is_dir():
                        identity = _identity(entry.path)
                        if is_hidden(entry.name):
                            kind = "hidden folder"
                        elif entry.is_symlink() and identity in above:
                            kind = "circular link"
                        else:
                            waiting.append((entry.path, f"{name}/", (*above, identity)))
                            continue
                    elif not entry.is_file():
                        kind = "broken link" if entry.is_symlink() else "special file"
                    else:
                        kind, size = _kind(entry.name), entry.stat().st_size
                except OSError:  # a link to itself, or a file that was removed meanwhile
                    kind = "broken link"
                yield name, kind, size


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _kind(name: str) -> str | None:
    """What a file is if it is left out; None for a picture that can be decoded here."""
    suffix = _suffix(name)
    if is_hidden(name):
        return "hidden file"
    if suffix not in FORMAT_OF:
        return suffix or "suffixless file"
    return None if is_picture(name) else f"{suffix} ({NEEDS[FORMAT_OF[suffix]]})"
