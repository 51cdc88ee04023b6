"""Noisy correspondence: captions that stand beside the wrong image."""

from __future__ import annotations

import numpy as np


def permute_captions(n: int, fraction: float, *, seed: int) -> np.ndarray:
    """int64 [n]: the caption that each pair gets; `fraction` of the n pairs get another pair's caption.

    The chosen captions are moved one place along a random cycle, so every caption is used as often as before and
    none stays where it was, unless it is the only one chosen (another caption of the same image may come, with a chance
    of about captions per image / n).

    Raises:
      ValueError: if `fraction` is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"data.noise: got {fraction}, expected a fraction between 0 and 1")
    chosen = np.random.default_rng([seed, 0x5EED]).permutation(n)[: round(fraction * n)]
    order = np.arange(n)
    order[chosen] = np.roll(chosen, 1)
    return order
