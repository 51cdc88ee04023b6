"""WebDataset: pictures and their texts as members of tar files, read by byte offset.

The members of a sample follow each other and share a key, their name up to the first dot of the last part: `a/1.jpg`,
`a/1.txt` and `a/1.json` are the sample `a/1`. The picture is the member with a picture's extension, and its caption is
that of `.txt` or, without one, `caption`, `captions` or `text` in `.json`.

One pass over a tar finds the offset and length of each picture. Any picture is then read with one seek, so the order,
resumption and division over machines are the same as for files. What the pass found is kept beside the tar, if its
folder can be written to.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from vacsr_jax.atomic_files import write_text
from vacsr_jax.data.fields import Fault, captions_of
from vacsr_jax.data.picture_files import is_hidden, is_picture
from vacsr_jax.data.records import Record, RecordSource, open_records
from vacsr_jax.data.splits import split_of_file

INDEX = ".vacsr_index.json"  # added to the name of a tar
FORMAT = 1  # of the index; raise it when `_Sample` changes
_BRACES = re.compile(r"\{([^{}]*)\}")
_TAR = re.compile(r"\.(tar|tgz|tar\.\w{1,4})$")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_SHARDS = 1_000_000  # that a pattern may name


@dataclass(frozen=True)
class Member:
    """A member of a tar file."""

    tar: str
    name: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """The bytes of the member. The tar is opened anew, so that threads and processes do not share its position."""
        with open(self.tar, "rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))

    def __str__(self) -> str:
        return f"{self.tar}: {self.name}"


class _Sample(NamedTuple):
    """A sample in the index: its picture's name, offset and size ("", 0, 0 without one), and its members' texts."""

    key: str
    name: str
    offset: int
    size: int
    txt: str | None
    json: str | None


def read_webdataset(
    pattern: str, *, split: str | None = None, on_error: str = "raise", verify: bool = False, caption_key: str = ""
) -> RecordSource:
    """Reads tar files, or one split of them, as a source.

    The splits are those that the names of the files or their folders tell (`train/0001.tar`, `coco-val-3.tar`), if all
    of them do. Otherwise a hash of the samples' ids divides them; see `splits.divide`.

    Args:
      pattern: a folder of tar files, or a pattern of paths with braces and commas: `shards/{00000..00099}.tar`.
      split: train, validation or test; None: all.
      on_error: "raise" stops at the first error; "skip" leaves its sample out and notes it in `skipped`.
      verify: decode every picture once now.
      caption_key: the field of `.json` that holds the captions; "": the `.txt` or, without one, a usual field.

    Raises:
      ValueError: if a shard is missing, compressed or damaged, for a bad sample, or if none is left.
    """
    shards = find_shards(pattern)
    top = Path(os.path.commonpath([shard.parent for shard in shards]))
    named = {shard: split_of_file(shard.relative_to(top).as_posix()) for shard in shards}
    by_name = all(named.values())
    rows = ((shard, sample) for shard in tqdm(shards, "shards", disable=None, leave=False) for sample in index(shard))

    def parse(row: tuple[Path, _Sample | Fault]) -> Record:
        shard, sample = row
        if isinstance(sample, Fault):
            raise sample
        where = f"{shard}: {sample.key}"
        fields = _fields(sample, where, caption_key)
        if not sample.name:
            raise Fault("missing image", where, "no member with a picture's extension; add one or remove the sample")
        return Record(
            where=where,
            file=Member(str(shard), sample.name, sample.offset, sample.size),
            id=f"{shard.relative_to(top).with_suffix('').as_posix()}/{sample.key}",
            captions=captions_of(fields, where, caption_key),
            split=named[shard] if by_name else None,
            label=None,
            fields=fields,
        )

    return open_records(rows, parse, where=pattern, split=split, on_error=on_error, verify=verify)


def _fields(sample: _Sample, where: str, caption_key: str) -> dict[str, Any]:
    """What a sample's members say: those of its .json, and the .txt as `caption`."""
    fields: dict[str, Any] = {}
    if sample.json is not None:
        try:
            fields = json.loads(sample.json)
        except (ValueError, RecursionError) as error:
            raise Fault("malformed json", where, f"its .json is not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise Fault("malformed json", where, f"its .json: got {type(fields).__name__}, expected a JSON object")
    fields.pop("label", None)  # of other kinds in other sets; a sample of captions needs none
    if sample.txt is not None and not caption_key:
        fields = {name: value for name, value in fields.items() if name not in ("captions", "text")}
        fields["caption"] = sample.txt.strip()
    return fields


def find_shards(pattern: str) -> list[Path]:
    """The tar files of a folder or of a pattern, in order.

    Raises:
      ValueError: if there is none, one that the pattern names is missing, or one is compressed.
    """
    if Path(pattern).is_dir():
        below = ((path, path.relative_to(pattern).parts) for path in sorted(Path(pattern).rglob("*")))
        found = [path for path, parts in below if _TAR.search(path.name) and not any(map(is_hidden, parts))]
        if not found:
            raise ValueError(f"{pattern}: no tar file; give a folder of shards, or a pattern: shards/{{000..099}}.tar")
    else:
        found = [Path(name) for part in split_outside_braces(pattern) for name in expand_braces(part)]
        if missing := [path for path in found if not path.is_file()]:
            hint = "; shards are read from disk, so fetch them first" if re.match(r"\w{2,}:", pattern) else ""
            raise ValueError(f"{missing[0]}: no such file ({len(missing)} of {len(found)} shards are missing){hint}")
    if packed := next((path for path in found if path.suffix not in (".tar", "")), None):
        raise ValueError(f"{packed}: compressed, which has no random access; unpack it to a plain .tar")
    return found


def split_outside_braces(pattern: str) -> list[str]:
    """Splits a list of paths at its commas, except those inside braces."""
    return [part for part in re.split(r",(?![^{}]*\})", pattern) if part]


def expand_braces(pattern: str) -> list[str]:
    """Expands `{000..120}` and `{a,b}` as a shell does; numbers keep their leading zeros.

    Raises:
      ValueError: if there would be more than MOST_SHARDS.
    """
    found = [pattern]
    while braces := _BRACES.search(found[0]):
        numbers = _RANGE.fullmatch(braces[1])
        words = braces[1].split(",")
        if numbers:
            first, last = int(numbers[1]), int(numbers[2])
            step = 1 if first <= last else -1
            span = range(first, last + step, step)
            if len(span) * len(found) > MOST_SHARDS:
                raise ValueError(f"{pattern}: names more than {MOST_SHARDS:,} shards; give fewer")
            width = len(numbers[1]) if numbers[1].startswith("0") else 0
            words = [f"{number:0{width}d}" for number in span]
        found = [text.replace(braces[0], word, 1) for text in found for word in words]
    return found


def index(shard: Path) -> list[_Sample | Fault]:
    """The samples of a tar, from the index beside it if that is of this very file, else from a pass over the tar.

    Where the tar is damaged, a `Fault` stands in place of the rest.
    """
    stat, file = shard.stat(), shard.with_name(shard.name + INDEX)
    stamp = {"format": FORMAT, "size": stat.st_size, "modified": stat.st_mtime_ns}
    kept = _read_index(file, stamp)
    if kept is not None:
        return kept
    samples: list[_Sample | Fault] = []
    try:
        samples.extend(scan(shard))
    except Fault as fault:
        return [*samples, fault]
    with contextlib.suppress(OSError):  # a folder that cannot be written to: the next start takes the pass again
        write_text(file, json.dumps({**stamp, "samples": samples}, separators=(",", ":")))
    return samples


def _read_index(file: Path, stamp: dict[str, int]) -> list[_Sample | Fault] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if {name: kept[name] for name in stamp} != stamp:
            return None
        samples = [_Sample(*sample) for sample in kept["samples"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not there, cut short or of another version
        return None
    fits = all(
        isinstance(s.key, str)
        and isinstance(s.name, str)
        and isinstance(s.offset, int)
        and isinstance(s.size, int)
        and 0 <= s.offset <= s.offset + s.size <= stamp["size"]
        and isinstance(s.txt, str | None)
        and isinstance(s.json, str | None)
        for s in samples
    )
    return [*samples] if fits else None


def scan(shard: Path) -> Iterator[_Sample]:
    """Yields the samples of a tar in order, in one pass over its headers and texts.

    Raises:
      Fault: if it is no tar, or is damaged or cut short.
    """
    length = shard.stat().st_size
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(shard, "r:") as tar, open(shard, "rb") as file:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which would grow with every member
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name} ends after the file")
                key, extension = split_name(member.name)
                if not member.isfile() or any(map(is_hidden, PurePosixPath(member.name).parts)):
                    continue
                if sample and sample["key"] != key:
                    yield _Sample(**sample)
                    sample = {}
                sample = sample or {"key": key, "name": "", "offset": 0, "size": 0, "txt": None, "json": None}
                if is_picture(f"x.{extension}") and "." not in extension and not sample["name"]:  # no a.mask.png
                    sample |= {"name": member.name, "offset": member.offset_data, "size": member.size}
                elif extension in ("txt", "json"):
                    file.seek(member.offset_data)
                    sample[extension] = file.read(member.size).decode("utf-8-sig", errors="surrogateescape")
            file.seek(tar.offset)  # where the loop ended: at the end's mark, or, without a word, at any damage
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut short at byte {tar.offset:,} of {length:,}")
    except (tarfile.TarError, OSError, ValueError) as error:
        detail = f"cannot be read as a tar file ({error}); fetch or write it again, or leave the rest of it out with "
        detail += "--config.data.on_error=skip"
        raise Fault("damaged shard", str(shard), detail) from error
    if sample:
        yield _Sample(**sample)


def split_name(name: str) -> tuple[str, str]:
    """The key and the extension of a member, split at the first dot of the last part, as WebDataset does."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()
