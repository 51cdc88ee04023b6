"""Writes a run's numbers: JSON lines to disk, and progress with the time left to the screen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vacsr_jax.atomic_files import write_text
from vacsr_jax.training.log_to import Run, Sender


class MetricWriter:
    """Appends records to `path` (one JSON object per line) and shows progress towards `total` steps.

    On a terminal, progress is a bar. Elsewhere (a log file, a notebook's output) it is a line for each record. Without
    a path, as in all processes of a run but the first, the writer does nothing.

    Args:
      services: names of `log_to.SERVICES`, which get the records too, and the run's `config`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        start: int,
        total: int,
        services: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ):
        self._path = path
        self._start, self._total, self._began = start, total, time.monotonic()
        if path is not None:
            drop_after(path, start)
        self._file = None if path is None else path.open("a", encoding="utf-8", newline="\n")
        self._senders: list[Sender] = []
        if path is not None:
            self._senders = [Sender(name, Run(path.parent, config or {}, start)) for name in services]
        self._bar = tqdm(initial=start, total=total, unit="step", disable=path is None or not sys.stderr.isatty())

    def advance(self) -> None:
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for sender in self._senders:
            sender.send(step, values)
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
        for sender in self._senders:
            sender.close()
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Reads the records of a metrics file. A last line that a kill cut short is left out.

    Raises:
      ValueError: if any other line is not a record; the message names its number.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is damaged ({error}); remove that line to continue") from error
    return records


def drop_after(path: Path, step: int) -> None:
    """Removes records later than `step`: a killed run wrote them after its last checkpoint."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
