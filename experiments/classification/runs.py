"""Runs of the few-shot experiments. Each writes one JSON file under --out and is not repeated while that exists."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vacsr_jax.metrics.classification import over_seeds

DIVERGED = "diverged"
METHODS = ("cross_entropy", "sigmoid", "deterministic", "vacsr")


class Task(NamedTuple):
    """One training run: its file below --out, its config, and the fields that it sets."""

    name: str
    config: str
    fields: dict[str, Any]


def run_all(tasks: Sequence[Task], out: Path) -> None:
    """Trains and evaluates every task that has no result yet."""
    import jax

    from vacsr_jax.main import quiet

    quiet()
    jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))  # seeds share most compiled programs
    todo = [task for task in tasks if not result_file(out, task.name).exists()]
    for done, task in enumerate(todo, 1):
        print(f"{done}/{len(todo)} {task.name}", flush=True)
        run_one(task, out)


def run_one(task: Task, out: Path) -> None:
    from vacsr_jax.cli.train import EVALUATION, train_and_evaluate
    from vacsr_jax.config_files import load_config
    from vacsr_jax.training.loop import DivergedError

    config = load_config(task.config, [f"--config.{name}={value}" for name, value in task.fields.items()])
    workdir = out / "workdirs" / task.name
    began = time.monotonic()
    try:
        train_and_evaluate(config, workdir)
        result = json.loads((workdir / EVALUATION).read_text())
    except DivergedError as error:
        result = {"diverged": str(error)}
    result["seconds"] = time.monotonic() - began
    result_file(out, task.name).parent.mkdir(parents=True, exist_ok=True)
    result_file(out, task.name).write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(workdir)


def result_file(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def read_result(out: Path, name: str) -> dict[str, Any] | None:
    file = result_file(out, name)
    return json.loads(file.read_text()) if file.exists() else None


def cell(values: Sequence[float | str | None]) -> tuple[float, float] | float | str:
    """Returns (mean, standard error) over seeds in per cent, a number for one seed, or "not run" if one is missing."""
    if not values or None in values:
        return "not run"
    if DIVERGED in values:
        return f"{values.count(DIVERGED)} of {len(values)} {DIVERGED}"
    found = over_seeds([100 * value for value in values])
    return found.mean if found.error is None else (found.mean, found.error)
