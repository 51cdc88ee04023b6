"""What the search is handed, checked where it comes in."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# What else arrives is refused with a message, not by a type.
Vectors = jax.Array | np.ndarray  # float [n, d]
Names = Sequence | np.ndarray  # texts [n]


def check_embeddings(embeddings: Vectors, dim: int | None, name: str) -> np.ndarray:
    """Unit vectors, float32 [n, d], of embeddings of any float type; they need not be normalized.

    Raises:
      ValueError: if they are no float matrix, of another size than `dim`, not finite, or one has length zero.
    """
    x = np.asarray(embeddings)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name}: got shape {list(x.shape)}, expected [n, d], one row for each, n and d at least 1")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: got {x.dtype}, expected floating-point numbers such as float32")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name}: got {x.shape[1]} numbers each, expected {dim}; embed both with one model")
    x = np.array(x, np.float32, order="C")
    peak = np.max(np.abs(x), axis=1, keepdims=True)  # NaN where there is one
    refuse_rows(~np.isfinite(peak), f"{name}: not finite in float32", "leave them out")
    refuse_rows(peak == 0, f"{name}: all zero, so without direction", "leave them out")
    x /= peak  # so that no square overflows
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def refuse_rows(bad: np.ndarray, what: str, advice: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(f"{what}: row {rows[0]}, {len(rows)} in all; {advice}")


def check_ids(ids: Names, n: int, taken: Collection[str]) -> list[str]:
    """The ids as a list of texts.

    Raises:
      ValueError: if there are not n, one is no text or empty, or one occurs twice or is among those `taken`.
    """
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if len(ids) != n:
        raise ValueError(f"ids: got {len(ids)} for {n} embeddings; give one each")
    wrong = next((x for x in ids if not isinstance(x, str) or not x), None)
    if wrong is not None or not all(ids):
        raise ValueError(f"ids: got {wrong!r}, expected a text that is not empty; turn numbers into texts with str")
    seen = set()
    for x in ids:
        if x in taken or x in seen:
            raise ValueError(f"ids: {x!r} occurs twice; an id names one document, of whatever modality")
        seen.add(x)
    return ids


def check_k(k: int, n: int, what: str) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= n:
        raise ValueError(f"k: got {k!r}, expected a whole number from 1 to {n}, since there are {n} {what}")
