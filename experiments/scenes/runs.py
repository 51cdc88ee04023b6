"""Training runs of an experiment. Each writes one JSON file and is not repeated while that file exists."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

METHODS = ("infonce", "sigmoid", "deterministic", "vacsr")
MORE_METHODS = ("triplet", "pcmepp")  # only in the rows of matched steps of the full table


class Task(NamedTuple):
    """One training run: its name under --out, the config fields that it sets, and a change of the training.

    The change is a function that returns a context, for what no field can set. It is sent to another process, so it
    cannot be a lambda. `untrained`: whether to evaluate the model before training too.
    """

    name: str
    fields: dict
    change: Callable[[], AbstractContextManager] = nullcontext
    untrained: bool = True


def run_all(tasks: list[Task], out: Path, jobs: int, measure: Callable | None = None) -> dict[str, dict]:
    """Runs the tasks that have no result yet; returns all results by name. `measure` as in `run_one`."""
    todo = [task for task in tasks if not result_file(out, task.name).exists()]
    if jobs > 1:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            for done, name in enumerate(pool.map(run_one, todo, [out] * len(todo), [measure] * len(todo)), 1):
                print(f"{done}/{len(todo)} {name}", flush=True)
    else:
        for done, task in enumerate(todo, 1):
            print(f"{done}/{len(todo)} {task.name}", flush=True)
            run_one(task, out, measure)
    results = finished(out)
    return {task.name: results[task.name] for task in tasks}


def share_compilations(out: Path) -> None:
    """Shares compiled programs between runs that only differ in noise. Workers inherit these variables."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((out / "compiled").absolute()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def finished(out: Path) -> dict[str, dict]:
    """Returns every finished result by the name of its task."""
    return {file.stem: json.loads(file.read_text()) for file in out.glob("*.json")}


def result_file(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def make_config(fields: dict):
    from configs import scenes

    config = scenes.get_config()
    config.update_from_flattened_dict(fields)
    return config


def run_one(task: Task, out: Path, measure: Callable | None = None) -> str:
    """Trains, evaluates the best checkpoint and the untrained model on validation and test, and writes the numbers.

    `measure(best model, config, folder) -> dict` adds numbers of an experiment.
    """
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.evaluation.loaded_model import evaluate_captions
    from vacsr_jax.main import quiet
    from vacsr_jax.pretrained import load_workdir
    from vacsr_jax.training.loop import train
    from vacsr_jax.workdir import METRICS as METRICS_FILE

    quiet()
    config, workdir = make_config(task.fields), out / "workdirs" / task.name
    began = time.monotonic()
    with task.change():
        run, _ = train(config, workdir)
    seconds = time.monotonic() - began
    best = load_workdir(workdir, "best")
    test, validation = (open_split(config, split) for split in ("test", "validation"))
    result = {
        "fields": task.fields,
        "seconds": seconds,
        "step": best.step,
        "test": evaluate_captions(best, test).metrics,
        "validation": evaluate_captions(best, validation).metrics,
        "curve": validation_curve(workdir / METRICS_FILE),
    }
    if task.untrained:
        untrained = dataclasses.replace(best, params=run.params)
        result["untrained"] = evaluate_captions(untrained, test).metrics
    if measure is not None:
        result |= measure(best, config, out / "measured" / task.name)
    write_text(result_file(out, task.name), to_json(result))
    shutil.rmtree(workdir)
    return task.name


def validation_curve(file: Path) -> list[tuple[int, float]]:
    """The validation rsum of every checkpoint of a run, by step."""
    records = map(json.loads, file.read_text().splitlines())
    return [(record["step"], record["validation/rsum"]) for record in records if "validation/rsum" in record]


def matched_steps(out: Path, common: dict) -> dict[str, int]:
    """Returns how many steps of each baseline take as long as VACSR's, by step times measured side by side."""
    file = out / "matched_steps.json"
    if not file.exists():
        from vacsr_jax.atomic_files import to_json, write_text

        seconds = step_seconds({method: make_config({"method": method, **common}) for method in METHODS}, out)
        total = make_config(common).train.steps * seconds["vacsr"]
        steps = {method: round(total / seconds[method]) for method in METHODS if method != "vacsr"}
        write_text(file, to_json({"step_seconds": seconds, "steps": steps}))
    return json.loads(file.read_text())["steps"]


def step_seconds(configs: dict, out: Path, rounds: int = 150) -> dict[str, float]:
    """Measures the median time of a training step of each config, with its batch, taking turns."""
    import numpy as np

    steps = {name: stepper(config, out) for name, config in configs.items()}
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            next(step)
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(of[1:])) for name, of in times.items()}  # the first one compiles


def stepper(config, out: Path):
    """Trains one step per `next`."""
    import jax

    from vacsr_jax.data.loader import batches
    from vacsr_jax.training.loop import start
    from vacsr_jax.training.run import set_up
    from vacsr_jax.training.sharding import make_mesh, shard_batch

    run, mesh = set_up(config, out / "workdirs" / "timing"), make_mesh()
    state, step = start(run, mesh)
    for batch in batches(run.pairs, batch_size=config.train.batch_size, seed=0):
        batch.pop("index")
        state, terms = step(state, shard_batch(batch, mesh))
        yield jax.block_until_ready(terms)
