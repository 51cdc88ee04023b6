"""Timing on a possibly shared machine: the best of many short rounds in which the contenders take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np


def best_seconds(
    contenders: dict[str, Callable[[], Any]],
    rounds: int,
    repeat: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Returns the seconds of each contender's fastest call, after one call that is not counted.

    In each round every contender makes `repeat` calls, so that a disturbance of seconds affects all of them. The
    fastest call is the least disturbed. `time.process_time` as the clock counts what all threads compute.
    """
    for call in contenders.values():
        jax.block_until_ready(call())
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            for _ in range(repeat):
                times[name].append(seconds(call, clock))
    return {name: min(values) for name, values in times.items()}


def seconds(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    jax.block_until_ready(call())
    return clock() - start


def copy_gigabytes_per_second(rounds: int = 10) -> float:
    """Measures the bytes read and written per second while copying an array far larger than the caches."""
    x = jax.numpy.zeros(1 << 26, jax.numpy.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / best_seconds({"copy": lambda: copy(x)}, rounds)["copy"] / 1e9


def machine() -> str:
    """Describes the machine: its accelerator, or its CPU's model, cores and relevant instruction sets."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{len(jax.devices())} x {device.device_kind}"
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return f"CPU, jax {jax.__version__}"
    info = {name.strip(): value.strip() for name, _, value in lines}
    units = [u for u in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if u in info.get("flags", "").split()]
    cores = np.sum([name.strip() == "processor" for name, _, _ in lines])
    return f"{cores} cores of {info.get('model name', 'a CPU')} ({', '.join(units)}), jax {jax.__version__}"
