"""What a row of data says of its picture: texts, a class, a split; and the fault of a row that says it wrongly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from vacsr_jax.data.splits import NAMES

TEXT_KEYS = ("captions", "caption", "text")  # of the captions, unless the config names another
# JSON can contain half a surrogate pair, which tokenizers and file systems reject.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Fault(ValueError):
    """An error in one row, or in the picture that it names; `reason` is a few words, by which faults are counted."""

    def __init__(self, reason: str, where: str, detail: str):
        super().__init__(f"{where}: {detail}")
        self.reason = reason


def is_text(value: object) -> TypeGuard[str]:
    """Tells whether a value is a str that is not blank and can be encoded."""
    return isinstance(value, str) and bool(value.strip()) and not _HALF_CHARACTER.search(value)


def text_of(fields: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a field; a `Fault` if there is none."""
    value = fields.get(key)
    if not is_text(value):
        got = repr(value) if key in fields else "nothing"
        raise Fault(f"bad {key}", where, f"{key}: got {got:.200}, expected a non-empty string")
    return value


def captions_of(fields: Mapping[str, Any], where: str, key: str = "") -> list[str]:
    """The captions that a row has as a list or a string, in the field `key` or else in one of TEXT_KEYS.

    A row with a label needs none, unless `key` is given.
    """
    given = [key] if key else [name for name in TEXT_KEYS if name in fields]
    if not given and fields.get("label") is None:
        have = ", ".join(map(repr, fields)) or "no field"
        detail = f"neither {', '.join(TEXT_KEYS)} nor label, but {have:.200}; give one of them"
        raise Fault("no caption", where, f"{detail}, or name the captions' field: --config.data.caption_key=NAME")
    if len(given) > 1:
        raise Fault("bad caption", where, f"has {' and '.join(given)}; keep one of them")
    if not given:
        return []
    captions = fields.get(given[0])
    if given != ["captions"] and not isinstance(captions, list):
        return [text_of(fields, given[0], where)]
    if not isinstance(captions, list) or not captions:
        detail = f"{given[0]}: got {captions!r:.200}, expected a list of at least one string"
        raise Fault("bad caption", where, detail)
    for k, caption in enumerate(captions):
        if not is_text(caption):
            detail = f"{given[0]}[{k}]: got {caption!r:.200}, expected a non-empty string; fix it"
            raise Fault("bad caption", where, detail)
    return captions


def label_of(fields: Mapping[str, Any], where: str) -> str | None:
    """The class that a row names; an integer counts as a name."""
    value = fields.get("label")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else text_of(fields, "label", where)


def split_of(fields: Mapping[str, Any], where: str) -> str | None:
    """The split that a row names, in our words."""
    split = None if fields.get("split") is None else text_of(fields, "split", where)
    return None if split is None else NAMES.get(split, split)
