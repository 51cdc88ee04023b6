"""Watches a long run: memory of host and device, step time, file descriptors, threads, size of the records."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jax
import numpy as np

from experiments.robustness.processes import CONFIG, overrides
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.training import loop
from vacsr_jax.training.metric_writer import MetricWriter

FIELDS = {"method": "vacsr", "checkpoint.every": 500, "train.log_every": 50}
TENTHS = (2, 4, 6, 8, 10)  # the first tenth is the warm-up
CURVES = {
    "rss": "host memory, MB",
    "arrays": "arrays on the device",
    "array_bytes": "their size, MB",
    "ms": "CPU ms a step",
    "fds": "file descriptors",
    "threads": "threads",
    "log_bytes": "metrics.jsonl, kB",
}


class Watching(MetricWriter):
    """Samples the process at each record of the loss."""

    samples: list[dict[str, float]]
    file: Path
    _last = (0, 0.0, 0.0)

    def write(self, step: int, values: dict[str, float]) -> None:
        super().write(step, values)
        if "loss" not in values:  # a validation
            write_text(Watching.file, to_json(Watching.samples))
            return
        before, cpu, wall = self._last
        self._last = (step, time.process_time(), time.monotonic())
        arrays = jax.live_arrays()
        Watching.samples.append(
            {
                "step": step,
                "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
                "arrays": len(arrays),
                "array_bytes": sum(x.nbytes for x in arrays) / 1e6,
                "ms": 1000 * (self._last[1] - cpu) / (step - before) if cpu else float("nan"),
                "wall_ms": 1000 * (self._last[2] - wall) / (step - before) if wall else float("nan"),
                "fds": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
                "log_bytes": self._path.stat().st_size / 1e3,
            }
        )


def soak(out: Path, steps: int, **more: object) -> list[dict[str, float]]:
    """Trains the tiny config and returns samples, also written to `out/soak.json` and drawn in `out/soak.png`."""
    Watching.samples, Watching.file = [], out / "soak.json"
    fields = {**FIELDS, "train.steps": steps, **more}
    loop.MetricWriter = Watching
    try:
        loop.train(load_config(str(CONFIG), overrides(fields)), out / f"soak-{steps}")
    finally:
        loop.MetricWriter = MetricWriter
    plot(Watching.samples, out / "soak.png")
    return Watching.samples


def plot(samples: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    steps = [sample["step"] for sample in samples]
    for axes, (name, title) in zip(figure.subplots(4, 2).flat, CURVES.items(), strict=False):
        values = np.array([sample[name] for sample in samples], float)  # JSON has None for a missing number
        axes.plot(steps, values, linewidth=0.8)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_ylim(0, 1.15 * np.nanmax(values))
        axes.tick_params(labelsize=8)
    figure.axes[-1].remove()
    figure.savefig(path, dpi=100)


def read(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "soak.json").read_text())


def growth(samples: list[dict[str, float]]) -> dict[str, list[float]]:
    """Returns the median of each curve in the tenths `TENTHS` of the run."""
    parts = [samples[(n - 1) * len(samples) // 10 : n * len(samples) // 10] for n in TENTHS]
    return {name: [float(np.median([s[name] for s in part])) for part in parts] for name in CURVES}
