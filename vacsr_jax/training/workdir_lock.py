"""A lock on a workdir, so that only one process at a time trains in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from vacsr_jax.training.multihost import on_first_process

LOCK = ".lock"  # in a workdir; it names the holder
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Holds the workdir while the block runs; the operating system releases it, even if the process is killed.

    The lock is an `flock`. NFS passes it on to its server, so hosts exclude each other too. On a file system without
    locks, a warning is given. Among the processes of one run, the first holds the lock for all.

    The file stays, unless the block leaves nothing else in the workdir: a run that was refused leaves no trace. A
    process that gets the lock of a file that was removed meanwhile tries again, since that lock excludes nobody.

    Raises:
      ValueError: if another process holds it; the message names the process and its host.
    """
    with contextlib.ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(_hold(workdir)))
        yield


@contextlib.contextmanager
def _hold(workdir: Path) -> Iterator[None]:
    made = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"{workdir}: {holder} is training in it; wait for it, stop it, or give another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            warnings.warn(f"{workdir} cannot be locked ({error}); let only one run write there", stacklevel=4)
        if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            with _hold(workdir):
                yield
            return
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            if [x.name for x in workdir.iterdir()] == [LOCK]:
                path.unlink()
                if made:
                    workdir.rmdir()
