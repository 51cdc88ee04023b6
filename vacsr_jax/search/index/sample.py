"""A few documents of each modality, kept beside an index whose vectors are in a database."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

SAMPLE = 2000  # documents of a modality


@dataclasses.dataclass
class Sample:
    """The documents of each modality whose ids have the smallest hashes.

    So it is a random sample, the same in whatever order the documents came, and those of two halves can be merged.

    Attributes:
      of: modality -> id -> unit vector float32 [d].
    """

    of: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    def see(self, vectors: np.ndarray, ids: list[str], modality: str) -> None:
        """Takes documents in, in place of those with the same ids."""
        for kept in self.of.values():
            for x in ids:
                kept.pop(x, None)
        both = self.of.get(modality, {}) | dict(zip(ids, vectors, strict=True))
        self.of[modality] = {x: both[x].copy() for x in sorted(both, key=_hash)[:SAMPLE]}


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
