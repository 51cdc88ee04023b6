"""The names of splits, and how pictures are divided where the data does not divide them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}  # other names in data -> ours
# Names of folders and files, as Hugging Face understands them. They are not read as names in a `split` field: a data
# set may have its own split `eval`.
_IN_PATHS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", *NAMES), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_DEPTH = 2  # folders, from the outside, that may name a split


def split_of_folder(path: str) -> str | None:
    """The split that one of the first folders of a relative path names, as `train/cat/1.png` does; None if none."""
    return next((_IN_PATHS[name] for name in _folders(path) if name in _IN_PATHS), None)


def below_split(path: str) -> str:
    """The rest of a relative path, below the folder that names its split: `cat/1.png` of `train/cat/1.png`."""
    depth = next((i + 1 for i, name in enumerate(_folders(path)) if name in _IN_PATHS), 0)
    return "/".join(PurePosixPath(path).parts[depth:])


def _folders(path: str) -> list[str]:
    return [name.lower() for name in PurePosixPath(path).parts[:-1][:_DEPTH]]


def split_of_file(path: str) -> str | None:
    """The split that a relative path names in its folders or as a word of its file name, as `my-train-0001.tar`."""
    words = re.findall("[a-z]+", PurePosixPath(path).name.partition(".")[0].lower())
    return split_of_folder(path) or next((_IN_PATHS[word] for word in words if word in _IN_PATHS), None)


def hashed_split(identity: str) -> str:
    """Returns train, validation or test, 80/10/10, by a hash of the id."""
    bucket = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def divide(ids: Sequence[str], given: Sequence[str | None]) -> list[str]:
    """The split of each picture: the given one, or one by a hash of its id, so that it stays when others come or go.

    Without given splits, or if all are train, the pictures are divided 80/10/10. Where there are only train and test, a
    tenth of train becomes validation, which is the tenth that it would be without given splits.
    """
    known = set(given)
    if known <= {None, "train"}:
        return [hashed_split(i) for i in ids]
    if known == {"train", "test"}:
        taken = (hashed_split(i) == "validation" for i in ids)
        return [
            "validation" if split == "train" and new else str(split) for split, new in zip(given, taken, strict=True)
        ]
    return [split or hashed_split(i) for i, split in zip(ids, given, strict=True)]
