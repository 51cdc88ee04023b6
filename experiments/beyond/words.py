"""Decides what is true of a picture by the words that people wrote about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# Words without visual content. Counts are among them, since other captions may express them differently.
NOT_SEEN = """a about across all along an and another are around as at back be been before behind being beside between
by down each emoji few five four from front has have having he her his image in into is it its many next no not of off
on one onto or other out over photo picture several she some that the their them there these they this those three
through to together top two under up very was were where which while who with"""
STOP = frozenset(NOT_SEEN.split())
TRUE, MOSTLY = "true", "mostly true"  # all, or two thirds, of the caption's words are among the picture's


def words(text: str) -> frozenset[str]:
    """Returns the content words of a text without endings: {"cat", "sleep"} for "Some cats are sleeping"."""
    found = (word for word in re.findall(r"[a-z]+", text.lower()) if word not in STOP and len(word) > 1)
    return frozenset(_stem(word) for word in found)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def coverage(pictures: Sequence[frozenset[str]], captions: Sequence[frozenset[str]]) -> np.ndarray:
    """Share of each caption's words that are among a picture's: float64 [pictures, captions]; 0 without words."""
    column = {word: i for i, word in enumerate(sorted(frozenset().union(*captions)))}

    def table(rows):
        one_hot = np.zeros((len(rows), max(1, len(column))), np.float32)
        for i, row in enumerate(rows):
            one_hot[i, [column[word] for word in row if word in column]] = 1
        return one_hot

    wanted = table(captions)
    return (table(pictures) @ wanted.T).astype(np.float64) / np.maximum(wanted.sum(axis=1), 1)


def true_pairs(covered: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the two truths that follow from a coverage."""
    return {TRUE: covered > 1 - 1e-6, MOSTLY: covered > 2 / 3 - 1e-6}


def names_of(captions: Sequence[str], names: Sequence[str]) -> list[frozenset[str]]:
    """Returns which names (of objects: "tv", "potted plant") occur in each caption, ignoring endings."""
    parts = {name: tuple(sorted(words(name))) for name in names}
    found = []
    for caption in captions:
        here = words(caption)
        found.append(frozenset(name for name, needed in parts.items() if needed and here.issuperset(needed)))
    return found
