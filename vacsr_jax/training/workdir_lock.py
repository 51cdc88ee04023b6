"""A lock on a workdir, so that only one process at a time trains in it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vacsr_jax.atomic_files import write_text
from vacsr_jax.training.multihost import on_first_process

LOCK = ".lock"  # in a workdir
RETRY = 0.2  # seconds in which a lock is tried again
HOLDER = ".lock_holder"  # names the process that holds the lock, for messages
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Holds the workdir while the block runs; the operating system releases it, even if the process is killed.

    The lock is the system's own (`flock`; on Windows `LockFile`). NFS passes it on to its server, so hosts exclude each
    other too. On a file system without locks, a warning is given. Among the processes of one run, the first holds the
    lock for all.

    The lock's file stays, unless the block leaves nothing else in the workdir: a run that was refused leaves no trace.
    A process that gets the lock of a file that was removed meanwhile tries again, since that lock excludes nobody.

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
    lock, holder = FileLock(workdir / LOCK, timeout=RETRY), workdir / HOLDER
    try:
        lock.acquire()
    except Timeout:
        named = holder.read_text(encoding="utf-8").strip() if holder.exists() else "another process"
        raise ValueError(
            f"{workdir}: {named} is training in it; wait for it, stop it, or give another --workdir"
        ) from None
    except (OSError, NotImplementedError) as error:  # the second is what filelock makes of ENOSYS
        if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(f"{workdir} cannot be locked ({error}); let only one run write there", stacklevel=4)
        yield
        return
    try:
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        if {x.name for x in workdir.iterdir()} <= {LOCK}:
            with contextlib.suppress(OSError):  # Windows removes the file of a lock when it is released
                (workdir / LOCK).unlink(missing_ok=True)
                if made:
                    workdir.rmdir()
        lock.release()
