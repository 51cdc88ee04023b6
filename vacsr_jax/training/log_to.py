"""Sends a run's numbers to where people look at them: TensorBoard, Weights & Biases, trackio.

These are copies. The run's own record is metrics.jsonl, and nothing here may stop or delay a run: each service works in
a thread of its own, and the first error of a service ends it with one warning.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vacsr_jax.atomic_files import write_text
from vacsr_jax.workdir import LOG_RUN, TENSORBOARD

PROJECT = "vacsr_jax"  # at services that have projects
PATIENCE = 30.0  # seconds that the end of a run waits for a service
_WAITING = 10_000  # records that wait for a service that is slow; more are dropped


class Run(NamedTuple):
    """What a service is told of a run: its folder, config, and the step from which it continues."""

    workdir: Path
    config: Mapping[str, Any]
    start: int


class Service(Protocol):
    """Takes records; any method may raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `workdir/tensorboard`, for `tensorboard --logdir`."""

    def __init__(self, run: Run):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(run.workdir / TENSORBOARD))
        # TensorBoard then drops what a killed run wrote after the checkpoint from which this one continues.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(event_pb2.Event(step=run.start + 1, session_log=start, wall_time=time.time()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        summary = self._summary.Summary(value=scalars)
        self._writer.add_event(self._event.Event(step=step, summary=summary, wall_time=time.time()))

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project PROJECT; the same command again continues it. WANDB_MODE=offline keeps it on disk."""

    def __init__(self, run: Run):
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            name=run.workdir.resolve().name,
            id=run_id(run.workdir),
            resume="allow",
            dir=str(run.workdir),
            config=dict(run.config),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of the project PROJECT in trackio's database, for `trackio show`; the same command again continues it."""

    def __init__(self, run: Run):
        import trackio

        name = f"{run.workdir.resolve().name}-{run_id(run.workdir)}"
        self._run = trackio.init(project=PROJECT, name=name, resume="allow", config=dict(run.config), embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


# The names of `train.log_to`, which are those of the packages and of the extras.
SERVICES: dict[str, Callable[[Run], Service]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def choose_services(names: str) -> list[str]:
    """The services of `train.log_to`, separated by commas.

    Raises:
      ValueError: for an unknown name, or if its package is not installed.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in SERVICES:
            raise ValueError(f"train.log_to: got {name!r}, expected some of {', '.join(SERVICES)}, separated by commas")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f'train.log_to: the package {name} is not installed: pip install "vacsr_jax[{name}]"')
    return chosen


def run_id(workdir: Path) -> str:
    """The name of the run at a service: random, and the same for as long as the workdir lives."""
    file = workdir / LOG_RUN
    if not file.exists():
        write_text(file, f"{secrets.token_hex(4)}\n")
    return file.read_text(encoding="utf-8").strip()


class Sender:
    """Sends records to one service, in a thread of its own; its first error ends it."""

    def __init__(self, name: str, run: Run):
        self._name = name
        self._records: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._told = False
        self._thread = threading.Thread(target=self._work, args=(run,), name=f"log_to {name}", daemon=True)
        self._thread.start()

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Hands a record over and returns at once."""
        self._tell()
        if self._thread.is_alive():
            try:
                self._records.put_nowait((step, dict(values)))
            except queue.Full:
                self._error = self._error or TimeoutError(f"{_WAITING} records are waiting")

    def close(self) -> None:
        """Lets the service finish, for at most PATIENCE seconds."""
        with contextlib.suppress(queue.Full):
            self._records.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._error = self._error or TimeoutError(f"not finished after {PATIENCE:.0f} s")
        self._tell()

    def _work(self, run: Run) -> None:
        try:
            service = SERVICES[self._name](run)
            while (record := self._records.get()) is not None:
                service.log(*record)
            service.close()
        except BaseException as error:  # a service may raise anything, and even call sys.exit
            self._error = error

    def _tell(self) -> None:
        if self._error is not None and not self._told:
            self._told = True
            what = f"{type(self._error).__name__}: {self._error}"
            warnings.warn(
                f"train.log_to: {self._name} failed and is left out ({what:.300}); the run goes on, and metrics.jsonl "
                "has all numbers",
                stacklevel=3,
            )
