"""Images decoded in threads ahead of the device that takes them, in order, few at a time in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from vacsr_jax.data.source import Source, stack_images


def read_ahead(function: Callable[[Any], Any], items: Iterable, ahead: int) -> Iterator:
    """Yields `function(item)` of each item, in order, while threads work on the next `ahead` items.

    There are as many threads as this process has cores. Pillow releases the interpreter lock while it decodes and
    resizes. An error is raised in its item's turn, and no later item is begun.
    """
    pool = ThreadPoolExecutor(cores())
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def image_batches(
    source: Source,
    batches: Iterable[range],
    preprocess: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    ahead: int,
    skipped: dict[int, str] | None = None,
) -> Iterator[np.ndarray]:
    """The images of each range, preprocessed: uint8 [b, s, s, 3]. The next `ahead` images are decoded meanwhile.

    Args:
      skipped: None raises the first error. A dict leaves images that cannot be read out of their batch, which may
        become empty, and notes the message of each under its index.

    Raises:
      ValueError: if an image cannot be read, or differs in shape from the first of its batch.
    """
    if preprocess is None and hasattr(source, "gather"):
        yield from (source.gather(np.arange(rows.start, rows.stop)) for rows in batches)
        return

    def read(i: int) -> np.ndarray | ValueError:
        try:
            image = source.image(i)
            return image if preprocess is None else preprocess(image)
        except ValueError as error:
            if skipped is None:
                raise
            return error

    batches = list(batches)
    images = read_ahead(read, (i for rows in batches for i in rows), ahead)
    for rows in batches:
        found = {i: next(images) for i in rows}
        faults = {i: str(x) for i, x in found.items() if isinstance(x, ValueError)}
        if skipped is not None and faults:
            skipped.update(faults)
            found = {i: x for i, x in found.items() if i not in faults}
        yield stack_images(source, list(found), list(found.values()))
