"""Tries thousands of bad files, command lines and configs, and prints a table of how each ended.

`python -m tests.fuzz --inputs=10000 --seed=0 --jobs=2` runs every target in its own process, with limits on memory and
time. The exit status is 1 if any input ended in something other than success or a refusal. `--target=NAME` runs one
target; `--keep=FOLDER` keeps the files of every failure. `pytest -m fuzz` runs the same targets as tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# Share of the inputs per target: more for what is read often and costs little.
SHARES = {
    "image folder": 18,
    "tables": 8,
    "shards": 6,
    "Karpathy": 8,
    "COCO annotations": 6,
    "classes": 8,
    "embeddings, statistics": 10,
    "index": 8,
    "scores, ground truth": 8,
    "Hugging Face CLIP": 6,
    "export": 3,
    "workdir": 1,
    "arguments": 8,
    "config fields": 2,
    "requests": 10,
    "made to harm": 0,  # each case once
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="number of inputs over all targets (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed that the inputs are drawn with (default: 0)")
    parser.add_argument("--target", choices=tuple(SHARES), help="run only this target")
    parser.add_argument("--jobs", type=int, default=1, help="targets run at the same time (default: 1)")
    parser.add_argument("--keep", help="folder to copy the files of every failure to")
    parser.add_argument("--out", help="JSON file for the counts and the failures")
    parser.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    names = [options.target] if options.target else list(SHARES)
    began, found = time.monotonic(), run_all(names, options)
    print(table(found))
    for f in (f for result in found for f in result["failures"]):
        print(f"\n{f['outcome']} in {f['target']}: {f['error']}\n  at {f['where']}\n  {f['input']}")
    minutes = (time.monotonic() - began) / 60
    bad = sum(len(result["failures"]) for result in found)
    total = sum(sum(result["counts"].values()) for result in found)
    print(f"\n{total:,} inputs in {minutes:.1f} minutes, seed {options.seed}: {bad} kinds of failure")
    if options.out:
        from vacsr_jax.atomic_files import to_json, write_text

        write_text(Path(options.out), to_json({"seed": options.seed, "minutes": minutes, "targets": found}))
    sys.exit(1 if bad else 0)


def inputs_of(name: str, options: argparse.Namespace) -> int:
    from tests.fuzz.harm import CASES

    if name == "made to harm":
        return len(CASES)
    return options.inputs if options.target else -(-options.inputs * SHARES[name] // sum(SHARES.values()))


def run_all(names: list[str], options: argparse.Namespace) -> list[dict]:
    """Returns the result of each target, in order. A worker that dies counts as a failure of its target."""
    with tempfile.TemporaryDirectory() as folder:
        waiting, running, done = list(names), {}, {}
        while waiting or running:
            while waiting and len(running) < options.jobs:
                name = waiting.pop(0)
                running[name] = start_worker(name, Path(folder), options)
            for name, (process, file) in list(running.items()):
                if process.poll() is not None:
                    done[name] = read_result(name, process, file)
                    del running[name]
                    print(f"{name}: {done[name]['counts']}, {done[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
            time.sleep(0.1)
        return [done[name] for name in names]


def start_worker(name: str, folder: Path, options: argparse.Namespace):
    file = folder / f"{name.replace(' ', '_').replace(',', '')}.json"
    keep = [f"--keep={options.keep}"] if options.keep else []
    numbers = [f"--inputs={inputs_of(name, options)}", f"--seed={options.seed}"]
    command = [sys.executable, "-m", "tests.fuzz", f"--target={name}", *numbers, *keep]
    # No network, no accelerator, and no terminal to ask questions on.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path.cwd())}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    log = file.with_suffix(".log").open("w")
    process = subprocess.Popen(
        [*command, f"--worker={file}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    )
    return process, file


def read_result(name: str, process, file: Path) -> dict:
    if file.exists():
        return json.loads(file.read_text())
    said = file.with_suffix(".log").read_text()[-3000:]
    error = f"the worker ended with status {process.returncode}: {said}"
    failure = {"target": name, "outcome": "hang", "input": "the last one", "where": "-", "error": error}
    return {"target": name, "counts": {"hang": 1}, "failures": [failure], "seconds": 0.0, "peak_mib": 0.0}


def work(options: argparse.Namespace) -> None:
    """Runs one target, as a worker, and writes its result as JSON."""
    import shutil

    from tests.fuzz.commands import COMMAND_TARGETS
    from tests.fuzz.harm import Cases
    from tests.fuzz.models import MODEL_TARGETS
    from tests.fuzz.requests import REQUEST_TARGETS
    from tests.fuzz.targets import FILE_TARGETS
    from tests.fuzz.worker import fuzz, limit_memory

    everything = (*FILE_TARGETS, *MODEL_TARGETS, *COMMAND_TARGETS, *REQUEST_TARGETS, Cases("made to harm"))
    target = next(t for t in everything if t.name == options.target)
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["MPLCONFIGDIR"] = folder  # so that writes are seen
        target.write(Path(folder) / "inside", Path(folder) / "outside")  # imports and compiles
        import matplotlib.font_manager  # noqa: F401  runs fc-list at its first import

        limit_memory()
        result = fuzz(target, options.inputs, options.seed, Path(folder))
        if options.keep and (Path(folder) / "kept").is_dir():
            shutil.copytree(Path(folder) / "kept", Path(options.keep) / target.name, symlinks=True, dirs_exist_ok=True)
    values = result._asdict() | {"failures": [f._asdict() for f in result.failures]}
    Path(options.worker).write_text(json.dumps(values))


def table(found: list[dict]) -> str:
    from tests.fuzz.worker import OUTCOMES
    from vacsr_jax.report.tables import format_table

    rows = [
        [r["target"], *(r["counts"].get(o, 0) for o in OUTCOMES), f"{r['seconds']:.0f}", f"{r['peak_mib']:.0f}"]
        for r in found
    ]
    sums = [sum(column) for column in zip(*(row[1:-2] for row in rows), strict=True)]
    rows.append(["all", *sums, f"{sum(r['seconds'] for r in found):.0f}", f"{max(r['peak_mib'] for r in found):.0f}"])
    return format_table(rows, ["target", *OUTCOMES, "seconds", "peak MiB"])


if __name__ == "__main__":
    main()
