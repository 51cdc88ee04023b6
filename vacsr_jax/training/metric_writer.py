"""A run's numbers: JSON lines on disk, progress with an ETA on the screen."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from vacsr_jax.files import write_text


class MetricWriter:
    """Appends records to `path` (one JSON object a line) and shows progress towards `total` steps.

    On a terminal that is a bar; elsewhere (a log file, a notebook's output) a line at each record.
    """

    def __init__(self, path: Path, *, start: int, total: int):
        self._path = path
        self._start, self._total, self._began = start, total, time.monotonic()
        drop_after(path, start)
        self._file = path.open("a", encoding="utf-8")
        self._bar = tqdm(initial=start, total=total, unit="step", disable=not sys.stderr.isatty())

    def advance(self) -> None:
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        shown = {k: v for k, v in values.items() if k in ("loss", "validation/rsum", "validation/accuracy")}
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()})
        if self._bar.disable:
            numbers = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
            print(f"step {step}/{self._total}  {numbers}  {self._eta(step)}", file=sys.stderr, flush=True)

    def _eta(self, step: int) -> str:
        done = step - self._start
        elapsed = time.monotonic() - self._began
        return f"{elapsed:.0f} s, {elapsed / max(done, 1) * (self._total - step):.0f} s to go"

    def close(self) -> None:
        self._bar.close()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def drop_after(path: Path, step: int) -> None:
    """Removes records later than `step`, which a killed run wrote after its last checkpoint."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
