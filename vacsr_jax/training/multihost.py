"""One run on several processes: they join, check that their shares are equal, and end together."""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

HEARTBEAT = 30  # seconds of silence after which JAX ends the other processes; its default is 100
SHUTDOWN = 60  # seconds that a process waits for the others at its end
_MESSAGE = 2000  # bytes of an error message that are sent to other processes


def connect(where: str) -> None:
    """Joins the other processes. This must come before any other use of JAX.

    `where` is "auto", for clusters that JAX knows (TPU pods, SLURM, Open MPI, Kubernetes), or
    HOST:PORT,PROCESSES,INDEX with the address of process 0.

    Raises:
      ValueError: if it is neither, or the other processes do not join.
    """
    place: dict[str, Any] = {}
    if where != "auto":
        address, *numbers = where.split(",")
        if ":" not in address or len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            raise ValueError(
                f"--distributed: got {where!r}, expected HOST:PORT,PROCESSES,INDEX, or no value on a cluster"
            )
        place = {"coordinator_address": address, "num_processes": int(numbers[0]), "process_id": int(numbers[1])}
    try:
        jax.distributed.initialize(**place, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--distributed: the processes did not find each other: {error}") from error


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Runs a block on all processes. A process that loses another one says so and ends at once, without waiting.

    The lost process shows as an error of a collective operation. Otherwise JAX itself ends this process after
    `HEARTBEAT` seconds, with its own message.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, OSError) as error:
        if jax.process_count() == 1:
            raise
        first = str(_first_error(error)).partition("\n")[0]
        print(
            f"vacsr train: process {jax.process_index()} of {jax.process_count()} cannot go on: {first} (this "
            "happens when another process ended). Start all of them again to continue from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # an ordinary exit would wait for the lost process
    jax.distributed.shutdown()


def _first_error(error: BaseException) -> BaseException:
    """The error of the collective operation that failed first; errors from handling it may have come on top."""
    first, at = error, error.__context__
    while at is not None:
        first = at if isinstance(at, jax.errors.JaxRuntimeError) else first
        at = at.__context__
    return first


def on_first_process(do: Callable[[], Any]) -> None:
    """Calls `do` on process 0 while the others wait. If it raises ValueError or OSError, all raise ValueError."""
    if jax.process_count() == 1:
        do()
        return
    failed: Exception | None = None
    if jax.process_index() == 0:
        try:
            do()
        except (ValueError, OSError) as error:
            failed = error
    message = np.zeros(_MESSAGE, np.uint8)
    if failed is not None:
        mine = np.frombuffer(str(failed).encode()[:_MESSAGE], np.uint8)
        message[: len(mine)] = mine
    said = bytes(np.asarray(multihost_utils.broadcast_one_to_all(message))).rstrip(b"\0").decode(errors="replace")
    if failed is not None:
        raise failed
    if said:
        raise ValueError(said)


def check_shares(mesh: Mesh) -> None:
    """Raises ValueError unless all processes have the same number of devices, since each reads an equal share."""
    processes, counts = np.unique([device.process_index for device in mesh.devices.flat], return_counts=True)
    if len(set(counts)) > 1:
        found = ", ".join(f"process {p}: {n}" for p, n in zip(processes, counts, strict=True))
        raise ValueError(f"the processes have different numbers of devices ({found}); give each the same number")


def check_same(config: str, tokens: np.ndarray, images: int) -> None:
    """Raises ValueError unless all processes were given the same config and have read the same data."""
    if jax.process_count() == 1:
        return
    mine = np.array([zlib.crc32(config.encode()), zlib.crc32(np.ascontiguousarray(tokens).data), images], np.int64)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    for name, column in zip(("config", "captions", "number of images"), everyone.T, strict=True):
        if len(set(column)) > 1:
            raise ValueError(f"the processes differ in their {name}; give all the same config and the same data")


def host_copy(params: Any) -> Any:
    """Returns whole parameters on the host, which a process can use alone; a single process gets them unchanged."""
    return params if jax.process_count() == 1 else multihost_utils.process_allgather(params, tiled=True)
