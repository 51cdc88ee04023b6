"""Graded relevance between emoji, from their Unicode subgroups and keywords."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np


def frequent_words(records: Sequence[dict], limit: int = 60) -> set[str]:
    """Returns the keywords in more than `limit` records of a vendor's whole set."""
    counts = Counter(word for record in records for word in set(record["keywords"]))
    return {word for word, count in counts.items() if count > limit}


def graded_relevance(records_a: Sequence[dict], records_b: Sequence[dict], *, ignored: Collection[str]) -> np.ndarray:
    """Relevance of each emoji of b to each of a, from `id`, `label` and `keywords`: int8 [a, b], 0 to 3.

    3: the same id. 2: the same subgroup (`label`) and a shared word, or three shared words. 1: the same
    subgroup or a shared word. 0: neither. Words in `ignored` (see `frequent_words`) do not count.
    """
    shared = _shared_words(records_a, records_b, set(ignored))
    same_subgroup = _equal(records_a, records_b, "label")
    relevance = (same_subgroup | (shared >= 1)).astype(np.int8)
    relevance[(same_subgroup & (shared >= 1)) | (shared >= 3)] = 2
    relevance[_equal(records_a, records_b, "id")] = 3
    return relevance


def _equal(records_a: Sequence[dict], records_b: Sequence[dict], key: str) -> np.ndarray:
    return np.array([r[key] for r in records_a])[:, None] == np.array([r[key] for r in records_b])[None, :]


def _shared_words(records_a: Sequence[dict], records_b: Sequence[dict], ignored: set[str]) -> np.ndarray:
    words = {word for record in records_b for word in record["keywords"]} - ignored
    column = {word: i for i, word in enumerate(sorted(words))}
    # float32, because integer products do not use BLAS, and counts this small are exact.
    return _word_table(records_a, column) @ _word_table(records_b, column).T


def _word_table(records: Sequence[dict], column: dict[str, int]) -> np.ndarray:
    table = np.zeros((len(records), len(column)), np.float32)
    for i, record in enumerate(records):
        table[i, [column[word] for word in record["keywords"] if word in column]] = 1
    return table
