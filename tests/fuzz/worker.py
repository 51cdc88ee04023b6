"""One target fed with bad inputs: each is tried under a time and a memory limit, watched, and its outcome counted."""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import hashlib
import io
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

SECONDS = 60  # of computing: an input that takes longer hangs; the longest sound one compiles a model
PATIENCE = 300  # seconds by the clock: an input that waits for something
HEADROOM = 4 * 2**30  # bytes of address space that a worker may take beyond what it has when it starts
GROWTH = 3 * 2**29  # bytes of memory that one input may take: a sound picture of 67 million pixels takes half
GOOD = ("accepted", "refused")
OUTCOMES = (*GOOD, "stack trace", "hang", "memory", "escape", "executed")
EXECUTES = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")

READS = ("os.listdir", "os.scandir")
TOUCHES = (
    "open",
    *READS,
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.symlink",
    "os.link",
    "os.chmod",
)


class Hang(BaseException):
    """Raised in an input that takes too long; nothing catches it on the way."""


class Watch:
    """Sees, by Python's audit events, what an input opens and starts, and stops it from writing elsewhere.

    Only while `folder` is set: what is written must lie in it, and its `outside` may not even be read.
    """

    def __init__(self):
        self.folder, self.seen = None, []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in EXECUTES:
            self.seen.append(("executed", f"{event} {arguments[:2]}"))
        elif event in TOUCHES and isinstance(arguments[0], str | bytes | os.PathLike):
            folder, self.folder = self.folder, None  # resolving a path must not be watched
            path = os.path.realpath(os.fsdecode(arguments[0]).replace("\0", ""))
            self.folder = folder
            reads = event in READS or (event == "open" and not _writes(*arguments[1:3]))
            if not reads and not f"{path}/".startswith((f"{folder}/", "/dev/")):
                self.seen.append(("escape", f"{event} {path}"))
                raise PermissionError(f"{path}: an input writes outside its folder")
            if reads and (path == "/etc/passwd" or f"{path}/".startswith(f"{folder}/outside/")):
                self.seen.append(("escape", f"{event} {path}"))


def _writes(mode: str | None, flags: int) -> bool:
    return bool(set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


_watches: list[Watch] = []  # an audit hook cannot be removed, so there is one


def watch() -> Watch:
    if not _watches:
        _watches.append(Watch())
    return _watches[0]


class Failure(NamedTuple):
    """An input that ended as none may: what it was, how it ended, where in the code."""

    target: str
    outcome: str
    input: str
    error: str
    where: str


def limit_memory() -> None:
    """From now on an allocation of much more than there is fails, instead of taking the machine down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(read: Callable[[], None], folder: Path) -> tuple[str, str, str]:
    """How a reading ends: outcome, error, and place in the code."""
    watcher, before = watch(), peak()
    marker = folder / "inside" / "executed"
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    signal.alarm(PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)  # for what does not come back to Python
    watcher.seen, watcher.folder = [], str(folder.resolve())
    outcome, error, where, said = "accepted", "", "", io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(action="ignore"),
        ):
            read()
    except (ValueError, OSError) as caught:
        outcome, error = "refused", f"{type(caught).__name__}: {caught}"
    except SystemExit as caught:
        refused = caught.code in (1, 2) and said.getvalue()  # 1: `vacsr data check` of what is incomplete
        outcome = "accepted" if caught.code == 0 else "refused" if refused else "stack trace"
        error = f"exit {caught.code}: {said.getvalue()[-300:]}"
    except Hang as caught:
        outcome, error, where = "hang", f"over {SECONDS} s of computing, or {PATIENCE} s", place(caught)
    except MemoryError as caught:
        outcome, error, where = "memory", f"MemoryError: {caught}", place(caught)
    except BaseException as caught:
        outcome, error, where = "stack trace", f"{type(caught).__name__}: {caught}", place(caught)
    finally:
        watcher.folder = None
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    if "Traceback" in error:
        outcome = "stack trace"
    if peak() - before > GROWTH:
        outcome, error = "memory", f"{(peak() - before) / 2**20:.0f} MiB; {error}"
    if watcher.seen:
        outcome, error = watcher.seen[0]
    if marker.exists():
        marker.unlink()
        outcome, error = "executed", "a file of the input was run"
    return outcome, error[:400], where


def _hang(*_) -> None:
    raise Hang


def place(error: BaseException) -> str:
    """The innermost frame of the package, and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vacsr_jax" in frame.filename]
    return " < ".join(f"{Path(part[-1].filename).name}:{part[-1].lineno}" for part in (ours, frames) if part)


class Result(NamedTuple):
    target: str
    counts: dict[str, int]
    failures: list[Failure]
    seconds: float
    peak_mib: float
    endings: list[tuple[str, str, str]]  # input, outcome, error; of a target with few inputs


def fuzz(target, inputs: int, number: int, folder: Path) -> Result:
    """Tries so many different inputs of a target in `folder`; each stands there in place of a good file.

    `number` is hypothesis's seed. Beside the target's folder stands `outside`, with pictures that nothing may open.
    """
    here, outside, kept = folder / "inside", folder / "outside", folder / "kept"
    target.write(here, outside)
    began, counts, failures, seen, endings = time.monotonic(), collections.Counter(), {}, set(), []

    def one(change) -> None:
        identity = hashlib.sha256(repr(change).encode()).digest()
        if len(seen) >= inputs or identity in seen:
            return
        seen.add(identity)
        description, restore = target.apply(here, change)
        outcome, error, where = attempt(lambda: target.read(here, change), folder)
        if outcome not in GOOD and (key := (outcome, where, error.split(":")[0])) not in failures:
            failures[key] = Failure(target.name, outcome, description, error, where)
            shutil.copytree(here, kept / str(len(failures)), symlinks=True, ignore=shutil.ignore_patterns("*pipe*"))
        restore()
        counts[outcome] += 1
        if inputs < 100:
            endings.append((description, outcome, error))

    phases, health = [Phase.generate], list(HealthCheck)
    for again in range(20):  # hypothesis repeats itself: some inputs are drawn twice, and count once
        run = given(target.changes(here))(one)
        run = settings(max_examples=inputs, database=None, deadline=None, phases=phases, suppress_health_check=health)(
            run
        )
        seed(1000 * number + again)(run)()
        if len(seen) >= inputs:
            break
    return Result(target.name, dict(counts), list(failures.values()), time.monotonic() - began, peak() / 2**20, endings)
