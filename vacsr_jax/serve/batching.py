"""One thread works for many: requests wait in a bounded queue, and those that wait together are answered together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


class BusyError(RuntimeError):
    """The queue is full, or the answer took too long: the same request may succeed later."""


@dataclass
class Job:
    """A request that waits.

    Attributes:
      request: what is asked.
      until: the time (`time.monotonic`) after which nobody waits for the answer.
      answer: takes the answer, or the exception.
    """

    request: Any
    until: float
    answer: Future = field(default_factory=Future)


class Batcher:
    """Answers requests on one thread, which owns the device.

    While the thread is at work, new requests wait; when it is done, it takes all that wait, up to `together`, and
    answers those of one kind in one call. Under no load a request is answered alone and at once.

    Args:
      answer: requests of one kind -> an answer, or an exception, for each.
      kind: of a request; only requests of one kind are answered together.
      together: the most requests of one call.
      waiting: the most requests that wait; another one is refused.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        kind: Callable[[Any], Hashable],
        *,
        together: int,
        waiting: int,
    ):
        self._answer, self._kind, self._together = answer, kind, together
        self._queue: queue.Queue[Job | None] = queue.Queue(waiting)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="vacsr device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return self._queue.qsize()

    def submit(self, request: Any, seconds: float) -> Future:
        """Queues a request that must be answered within `seconds`.

        Raises:
          BusyError: if the queue is full, or closed.
        """
        if self._closed.is_set():
            raise BusyError("the server is stopping; try another one")
        job = Job(request, time.monotonic() + seconds)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise BusyError(f"{self._queue.maxsize} requests wait already; try again in a moment") from None
        return job.answer

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer to a request; waits for it.

        Raises:
          BusyError: if the queue is full, or the answer is not there within `seconds`.
          Exception: what the answer raised.
        """
        answer = self.submit(request, seconds)
        try:
            return answer.result(seconds)
        except TimeoutError:
            answer.cancel()
            raise BusyError(f"no answer within {seconds:g} s; ask for less, or try again later") from None

    def close(self) -> None:
        """Answers what waits, then ends the thread. Nothing more is accepted."""
        if not self._closed.is_set():
            self._closed.set()
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        closing = False
        while not closing:
            jobs = [self._queue.get()]
            while len(jobs) < self._together:
                try:
                    jobs.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            closing = None in jobs
            now = time.monotonic()
            kinds: dict[Hashable, list[Job]] = {}
            for job in jobs:
                if job is not None and job.until > now and job.answer.set_running_or_notify_cancel():
                    kinds.setdefault(self._kind(job.request), []).append(job)
            for alike in kinds.values():
                self._run(alike)

    def _run(self, jobs: list[Job]) -> None:
        """Answers jobs of one kind. If the call fails, each is tried alone, so that one does not spoil the others."""
        try:
            answers = self._answer([job.request for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:
                    self._run([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
