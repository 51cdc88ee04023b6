"""Feeds one target with bad inputs, each watched and limited in time and memory, and counts the outcomes."""

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

SECONDS = 60  # of computing; an input that takes longer hangs. The longest valid one compiles a model
PATIENCE = 300  # seconds by the clock, for an input that waits for something
HEADROOM = 4 * 2**30  # bytes of address space that a worker may add to those at its start
GROWTH = 3 * 2**29  # bytes of memory that one input may take; a valid picture of 67 million pixels takes half
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
    """Raised in an input that takes too long. No `except Exception` catches it."""


class Watch:
    """Watches, through Python's audit events, what an input opens and starts, and stops it from writing elsewhere.

    It is active while `folder` is set: files may only be written in it, and its subfolder `outside` may not be read.
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
            folder, self.folder = self.folder, None  # do not watch the resolving of a path
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


_watches: list[Watch] = []  # an audit hook cannot be removed, so there is only one


def watch() -> Watch:
    if not _watches:
        _watches.append(Watch())
    return _watches[0]


class Failure(NamedTuple):
    """An input with a bad ending: what it was, how it ended, and where in the code."""

    target: str
    outcome: str
    input: str
    error: str
    where: str


def limit_memory() -> None:
    """Makes excessive allocations fail from now on, instead of taking the machine down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(read: Callable[[], None], folder: Path) -> tuple[str, str, str]:
    """Reads one input; returns outcome, error, and place in the code."""
    watcher, before = watch(), peak()
    marker = folder / "inside" / "executed"
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    signal.alarm(PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)  # for code that does not return to Python
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
        refused = caught.code in (1, 2) and said.getvalue()  # 1: `vacsr data check` of incomplete data
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
    """Returns the innermost frame of the package, and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vacsr_jax" in frame.filename]
    return " < ".join(f"{Path(part[-1].filename).name}:{part[-1].lineno}" for part in (ours, frames) if part)


class Result(NamedTuple):
    target: str
    counts: dict[str, int]
    failures: list[Failure]
    seconds: float
    peak_mib: float
    endings: list[tuple[str, str, str]]  # (input, outcome, error), for a target with few inputs


def fuzz(target, inputs: int, number: int, folder: Path) -> Result:
    """Tries `inputs` different inputs of a target in `folder`, each in place of a good file.

    `number` seeds hypothesis. Beside the target's folder is `outside`, with pictures that nothing may open.
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
    for again in range(20):  # hypothesis draws some inputs twice; they count once
        run = given(target.changes(here))(one)
        run = settings(max_examples=inputs, database=None, deadline=None, phases=phases, suppress_health_check=health)(
            run
        )
        seed(1000 * number + again)(run)()
        if len(seen) >= inputs:
            break
    return Result(target.name, dict(counts), list(failures.values()), time.monotonic() - began, peak() / 2**20, endings)
