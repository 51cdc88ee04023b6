"""SIGTERM and Ctrl-C end training after a whole step, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal ended training after a checkpoint was written; `signal` is its number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[int], int]]:
    """Yields `stop(step)`, which returns the number of a received signal, or 0. A signal makes this step the last one.

    A second Ctrl-C interrupts at once. With several processes, a SIGTERM to any of them stops all after the same step,
    through JAX's preemption service, and Ctrl-C is not handled. Outside the main thread no signal is watched, since
    Python sets no handlers there.
    """
    if jax.process_count() > 1:
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return
    received: list[int] = []

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in SIGNALS} if main else {}
    try:
        yield lambda step: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
