"""Tiny runs in their own processes: start, watch, kill and compare them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "configs" / "scenes.py"
EVERY, LOG = 5, 3  # some records fall between checkpoints, some on them
TINY = {
    "method": "sigmoid",
    "checkpoint.every": EVERY,
    "train.log_every": LOG,
    "train.batch_size": 8,
    "optim.warmup_steps": 2,
    "model.vocab_size": 259,
    "data.train_size": 60,
    "data.validation_size": 10,
    "data.test_size": 10,
}


def overrides(fields: dict[str, object] | None = None) -> list[str]:
    return [f"--config.{name}={value}" for name, value in (TINY | (fields or {})).items()]


class Training:
    """A process with `vacsr train` of the tiny config. Its output goes to a file, so that no pipe fills."""

    def __init__(
        self,
        workdir: Path,
        cache: Path | None,
        *,
        fields: dict[str, object] | None = None,
        options: Sequence[str] = (),
        devices: int = 1,
        log: Path | None = None,
    ):
        workdir.parent.mkdir(parents=True, exist_ok=True)
        self.workdir, self.log = workdir, log or workdir.parent / f"{workdir.name}-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "vacsr_jax", "train", f"--config={CONFIG}", f"--workdir={workdir}"]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count={devices}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the compiled program only runs a few times
        }
        if cache is not None:
            environment |= {"JAX_COMPILATION_CACHE_DIR": f"{cache}", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options, *overrides(fields)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=CONFIG.parents[1],
            )

    def printed(self) -> str:
        return self.log.read_text()

    def wait_for(self, happened: Callable[[], object], timeout: float = 1800) -> bool:
        """Waits for a condition, checked every 10 ms; returns whether it became true while the process lived."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if happened():
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        self.kill()
        raise TimeoutError(f"{self.workdir}: nothing happened in {timeout} s:\n{self.printed()[-2000:]}")

    def steps(self) -> list[int]:
        """Returns the steps of the records printed so far."""
        return [int(word) for word in re.findall(r"^step (\d+)/", self.printed(), re.M)]

    def cpu_seconds(self) -> float:
        """Returns the user and system time so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def last_checkpoint(self) -> int:
        folders = (self.workdir / "checkpoints").glob("*")
        return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)

    def is_validating(self) -> bool:
        steps = self.steps()
        return bool(steps) and steps[-1] % EVERY == 0 and steps.count(steps[-1]) == 1

    def is_saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))

    def end(self, timeout: float = 1800) -> int:
        """Waits for the exit status; a negative one is the signal that ended the process."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def last_line(self, word: str = "") -> str:
        """Returns the last line with the word, or else the last line, with WORKDIR for the workdir's path."""
        lines = [line for line in self.printed().replace(f"{self.workdir}", "WORKDIR").splitlines() if line.strip()]
        return ([line for line in lines if word in line] or lines or [""])[-1]


def differences(a: Path, b: Path) -> list[str]:
    """Lists how two finished runs differ; empty if they are equal to the last bit.

    Compares the curves, the evaluation, which steps are the best and the last, and every array of both.
    """
    one, other = content(a), content(b)
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


def content(workdir: Path) -> dict[str, object]:
    """Returns the bytes of files and arrays by name."""
    import orbax.checkpoint as ocp

    from vacsr_jax.training.checkpoint import Checkpoints

    found: dict[str, object] = {name: (workdir / name).read_bytes() for name in ("metrics.jsonl", "evaluation.json")}
    checkpoints = Checkpoints(workdir, read_only=True)
    with ocp.StandardCheckpointer() as reader:
        for which in ("best", "last"):
            step = checkpoints.choose(which)
            found[f"{which} step"] = step
            for item in ("params", "optimizer"):
                found |= array_bytes(f"{which} {item}", reader.restore(checkpoints.folder / f"{step}" / item))
    checkpoints.close()
    return found


def array_bytes(prefix: str, tree: object) -> dict[str, bytes]:
    import jax
    import numpy as np

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{prefix}{jax.tree_util.keystr(path)}": np.asarray(leaf).tobytes() for path, leaf in leaves}
