"""Two processes of one run, joined by jax.distributed over the loopback: killed, resumed, compared with one process."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

from experiments.robustness.faults import Row, straight
from experiments.robustness.processes import EVERY, Training


class Loss(NamedTuple):
    """What the remaining process did: seconds until it ended, its exit status, and its last line, shortened."""

    seconds: float
    status: int
    said: str


def start_pair(workdir: Path, out: Path, steps: int, devices: tuple[int, int] = (1, 1)) -> list[Training]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fields, cache = {"train.steps": steps}, out / "compiled"
    places = [f"--distributed=localhost:{port},2,{index}" for index in range(2)]
    return [
        Training(workdir, cache, fields=fields, options=[place], devices=count)
        for place, count in zip(places, devices, strict=True)
    ]


def lose_one(workdir: Path, out: Path, steps: int, lost: int) -> Loss:
    """Kills one of a pair in a step after the first checkpoint, and observes the other."""
    pair = start_pair(workdir, out, steps)
    pair[0].wait_for(lambda: pair[0].last_checkpoint() and pair[0].steps()[-1] > EVERY)
    pair[lost].kill()
    began = time.monotonic()
    status = pair[1 - lost].end()
    seconds, left = time.monotonic() - began, pair[1 - lost]
    # The first process holds JAX's coordinator. Without it JAX ends the others, with a stack trace after its message.
    said = left.last_line("cannot go on" if "cannot go on" in left.printed() else "Terminating process")
    return Loss(seconds, status, said[said.find("vacsr") if "vacsr" in said else said.find("Terminating") :][:170])


def finish_pair(workdir: Path, out: Path, steps: int) -> None:
    pair = start_pair(workdir, out, steps)
    statuses = [training.end() for training in pair]
    if any(statuses):
        raise RuntimeError("\n".join(training.printed() for training in pair))


def losses(workdir: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(record["step"], record["loss"]) for record in records if "loss" in record]
    if len(dict(found)) != len(found):
        raise RuntimeError(f"{workdir}: a step was recorded twice")
    return dict(found)


def apart(a: Path, b: Path) -> float:
    """Returns the largest relative difference of two runs' recorded losses; infinite if their steps differ."""
    one, other = losses(a), losses(b)
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[step] - other[step]) / abs(one[step]) for step in one)


def pair_rows(out: Path, steps: int = 2 * EVERY) -> list[Row]:
    rows = []
    for lost in (1, 0):
        workdir = out / f"pair-{lost}"
        loss = lose_one(workdir, out, steps, lost)
        finish_pair(workdir, out, steps)
        off = apart(straight(out, steps), workdir)
        happened = (
            f"the other ended after {loss.seconds:.0f} s, status {loss.status}: `{loss.said}`; started again, the pair "
            f"resumed; its losses are those of one process within {off:.0e}"
        )
        ok = loss.seconds < 60 and off < 1e-4
        rows.append(Row(f"process {lost} of 2 gets SIGKILL", happened, "the steps since the last checkpoint", ok))
    return [*rows, stopped_row(out, steps)]


def stopped_row(out: Path, steps: int) -> Row:
    """Sends SIGTERM to the second of a pair."""
    workdir = out / "pair-stopped"
    pair = start_pair(workdir, out, steps)
    pair[0].wait_for(pair[0].steps)
    pair[1].send(signal.SIGTERM)
    ends = [(training.end(), training.last_line()) for training in pair]
    finish_pair(workdir, out, steps)
    off = apart(straight(out, steps), workdir)
    happened = f"both: `{ends[0][1]}`, status {ends[0][0]}; the pair resumed; losses as above within {off:.0e}"
    ok = ends[0] == ends[1] and ends[0][0] == 128 + signal.SIGTERM and off < 1e-4
    return Row("process 1 of 2 gets SIGTERM", happened, "nothing", ok)
