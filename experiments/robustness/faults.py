"""Signals sent to real training processes: what happened, and what was lost."""

from __future__ import annotations

import random
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

from experiments.robustness.processes import EVERY, Training, differences
from vacsr_jax.training.workdir_lock import LOCK

MOMENTS = ("start, first compile", "step", "save", "validation")
STOPS = (signal.SIGTERM, signal.SIGINT)


class Row(NamedTuple):
    """A row of the table."""

    fault: str
    happened: str
    lost: str
    ok: bool


class Ended(NamedTuple):
    """A process that was ended: the cause, its status and last line, the last printed step, the last checkpoint."""

    cause: str | signal.Signals
    status: int
    said: str
    step: int
    checkpoint: int
    half_save: bool  # whether a temporary directory was left


def straight(out: Path, steps: int) -> Path:
    """Returns an undisturbed run, made once; the others are compared with it."""
    workdir = out / f"straight-{steps}"
    if not (workdir / "evaluation.json").exists():
        finish(workdir, out, steps)
    return workdir


def finish(workdir: Path, out: Path, steps: int) -> str:
    """Runs the same command to its end; returns what it printed."""
    training = Training(workdir, out / "compiled", fields={"train.steps": steps})
    if training.end():
        raise RuntimeError(f"{workdir}: {training.printed()}")
    return training.printed()


def end_at(cause: str | signal.Signals, workdir: Path, out: Path, steps: int, rng: random.Random) -> Ended:
    """Starts the command and ends it, by SIGKILL at a random time in a phase or by another signal in a step."""
    first = cause == MOMENTS[0]  # so that this start compiles
    training = Training(workdir, None if first else out / "compiled", fields={"train.steps": steps})
    if first:
        seconds = rng.uniform(0.1, 6.0)  # of CPU: imports take about 2, the first step is done after about 9
        training.wait_for(lambda: training.cpu_seconds() > seconds)
    else:  # sometimes after another checkpoint, so that the run makes progress
        enough = training.last_checkpoint() + rng.randint(0, 1) * EVERY
        training.wait_for(lambda: training.last_checkpoint() >= enough)
    if cause == "save":
        training.wait_for(training.is_saving)
        time.sleep(rng.uniform(0, 0.05))
    elif cause == "validation":  # begins when the step of a checkpoint has printed its loss
        training.wait_for(training.is_validating)
        time.sleep(rng.uniform(0, 0.2))
    elif not first:
        training.wait_for(training.steps)
        time.sleep(rng.uniform(0, 0.2) if cause == "step" else 0)
    if training.process.poll() is not None:
        raise RuntimeError(f"{workdir}: ended before it was killed: {training.printed()[-2000:]}")
    training.send(cause if cause in STOPS else signal.SIGKILL)
    status, last = training.end(), training.last_checkpoint()
    return Ended(cause, status, training.last_line(), max(training.steps(), default=last), last, training.is_saving())


def end_often(
    out: Path, causes: tuple[str | signal.Signals, ...], steps: int, seed: int = 0
) -> tuple[list[Ended], list[str]]:
    """Ends a run by each cause and resumes it, then lets it finish; also returns how it differs from a straight run."""
    rng, workdir, reference = random.Random(seed), out / f"ended-{len(causes)}-{steps}", straight(out, steps)
    ended = [end_at(cause, workdir, out, steps, rng) for cause in causes]
    finish(workdir, out, steps)
    return ended, differences(reference, workdir)


def said_of(differ: list[str]) -> str:
    return "the end is bit-identical" if not differ else f"the end DIFFERS in {', '.join(differ)}"


def signal_rows(out: Path) -> list[Row]:
    """20 kills and both signals that save first, in one run."""
    ended, differ = end_often(out, MOMENTS * 5 + STOPS, 20 * EVERY)
    end = said_of(differ)
    rows = []
    for moment in MOMENTS:
        here = [process for process in ended if process.cause == moment]
        lost = [process.step - process.checkpoint for process in here]
        left = sum(process.half_save for process in here)
        half = f"; {left} left half a save, which the next start removed" if left else ""
        fault = f"SIGKILL during {moment}, {len(here)} times"
        rows.append(
            Row(fault, f"the same command resumed{half}; {end}", f"{min(lost)} to {max(lost)} steps", not differ)
        )
    for stop in STOPS:
        (process,) = (process for process in ended if process.cause == stop)
        happened = f"`{process.said}`, status {process.status}; {end}"
        rows.append(Row(stop.name, happened, "nothing", not differ and process.status == 128 + stop))
    return rows


def lock_rows(out: Path, steps: int = 4 * EVERY) -> list[Row]:
    """Starts a second process in the workdir of a running one."""
    workdir = out / "locked"
    first = Training(workdir, out / "compiled", fields={"train.steps": steps})
    first.wait_for((workdir / LOCK).exists)
    second = Training(workdir, out / "compiled", fields={"train.steps": steps})
    status, said = second.end(), second.last_line()
    holder = f"process {first.process.pid} on {socket.gethostname()}"
    if first.end():
        raise RuntimeError(first.printed())
    differ = differences(straight(out, steps), workdir)
    happened = f"`{said.replace(holder, 'process PID on HOST')}`, status {status}; of the first {said_of(differ)}"
    return [Row("a second process on one workdir", happened, "nothing", status == 2 and holder in said and not differ)]
