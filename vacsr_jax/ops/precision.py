"""Which precision matrix products of pairs run fastest in on this machine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")  # of x86 processors whose units XLA's CPU backend uses
FIRST_CUDA_WITH_UNITS = 8.0  # compute capability; before it XLA multiplies bfloat16 in float32


def product_dtype(dtype: Any) -> jnp.dtype:
    """The type in which a model that computes in `dtype` multiplies pairs: `dtype`, or float32 where that is faster.

    bfloat16 is worth its rounding only where the device has units for it. A CPU without them converts every number and
    multiplies in float32: pairs are then scored at .62 of float32's speed. Sums are float32 in both types.
    """
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype == jnp.bfloat16 and not has_bfloat16_units() else dtype


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether the default device multiplies bfloat16 faster than float32, from what it says of itself.

    The answer is not measured, so that two runs on one machine compute the same numbers. A CPU that does not list its
    features (macOS, Windows), or is no x86, counts as one without units.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return any(flag in cpu_flags() for flag in BFLOAT16_FLAGS)
    try:
        return float(device.compute_capability) >= FIRST_CUDA_WITH_UNITS
    except (AttributeError, ValueError):  # a TPU has no such number, an AMD GPU a name; both have units
        return True


def cpu_flags() -> frozenset[str]:
    """The features that Linux lists of an x86 processor; none elsewhere."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
