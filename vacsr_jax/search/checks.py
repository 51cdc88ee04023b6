"""Checks of what the search is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.data.embeddings import unit_rows

# A wrong type is refused with a message, not by a type check.
Vectors = jax.Array | np.ndarray  # float [n, d]
Names = Sequence | np.ndarray  # texts [n]


def check_embeddings(embeddings: Vectors, dim: int | None, name: str) -> np.ndarray:
    """Unit vectors, float32 [n, d], of embeddings of any float type and any length but zero.

    Raises:
      ValueError: if they are not a float matrix, if a row does not have `dim` numbers, or if a row is zero or not
        finite.
    """
    x = np.asarray(embeddings)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name}: got shape {list(x.shape)}, expected [n, d], a row for each item, n and d at least 1")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: got {x.dtype}, expected floating-point numbers such as float32")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name}: got {x.shape[1]} numbers each, expected {dim}; embed both with one model")
    unit, length = unit_rows(x)
    refuse_rows(~np.isfinite(length), f"{name}: not finite in float32", "leave them out")
    refuse_rows(length == 0, f"{name}: all zero, so without direction", "leave them out")
    return unit


def refuse_rows(bad: np.ndarray, what: str, advice: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(f"{what}: row {rows[0]}, {len(rows)} in all; {advice}")


def check_ids(ids: Names, n: int, taken: Collection[str]) -> list[str]:
    """The ids as a list of texts.

    Raises:
      ValueError: if there are not n, if one is empty or not a text, or if one occurs twice or is among those `taken`.
    """
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if len(ids) != n:
        raise ValueError(f"ids: got {len(ids)} for {n} embeddings; give one for each")
    wrong = next((x for x in ids if not isinstance(x, str) or not x), None)
    if wrong is not None or not all(ids):
        raise ValueError(f"ids: got {wrong!r}, expected a text that is not empty; convert numbers with str")
    seen = set()
    for x in ids:
        if x in taken or x in seen:
            raise ValueError(f"ids: {x!r} occurs twice; an id names one document, whatever its modality")
        seen.add(x)
    return ids


def check_k(k: int, n: int, what: str) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= n:
        raise ValueError(f"k: got {k!r}, expected a whole number from 1 to {n}, since there are {n} {what}")
