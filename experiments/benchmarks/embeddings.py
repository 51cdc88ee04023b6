"""The speed and the memory of training on embeddings.

python -m experiments.benchmarks.embeddings step              a step of each method, and of a plain PyTorch loop
python -m experiments.benchmarks.embeddings epochs            100,000 pairs, ten epochs of propensity
python -m experiments.benchmarks.embeddings memory --pairs=3000000   the peak memory of `vacsr train` on a large file

results/embeddings.md has the numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from vacsr_jax.config_files import load_config
from vacsr_jax.data.loader import batch_at
from vacsr_jax.main import main as vacsr
from vacsr_jax.main import quiet
from vacsr_jax.report.tables import format_table
from vacsr_jax.training.loop import start, train
from vacsr_jax.training.run import set_up
from vacsr_jax.training.sharding import make_mesh, shard_batch

D, BATCH = 768, 256
METHODS = ("sigmoid", "propensity")
STEPS, ROUNDS = 30, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.embeddings",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parts = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for name, run, pairs in (("step", step, 20_000), ("epochs", epochs, 100_000), ("memory", memory, 3_000_000)):
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        part.add_argument("--pairs", type=int, default=pairs, help=f"pairs in the file (default: {pairs})")
        part.add_argument("--folder", help="where to write the file (default: a temporary folder, removed at the end)")
    options = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as temporary:
        options.run(Path(options.folder or temporary), options.pairs)


def write_pairs(folder: Path, n: int, part: int = 1_000_000) -> Path:
    """Random pairs in clip-retrieval's form, float16: a text is its image with noise."""
    path, rng = folder / f"pairs{n}", np.random.default_rng(0)
    for name in ("img_emb", "text_emb"):
        (path / name).mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, n, part)):
        size = min(part, n - first)
        files = [
            np.lib.format.open_memmap(path / name / f"{name}_{number}.npy", "w+", np.float16, (size, D))
            for name in ("img_emb", "text_emb")
        ]
        for i in range(0, size, 10_000):
            image = rng.standard_normal((min(10_000, size - i), D), np.float32)
            files[0][i : i + len(image)] = image
            files[1][i : i + len(image)] = image + 2 * rng.permutation(image)
    return path


def step(folder: Path, n: int) -> None:
    """Prints the milliseconds of a step: best of a few rounds in turn, so that all methods see the same machine."""
    path = write_pairs(folder, n)
    runs = {method: stepper(path, folder / method, method) for method in METHODS}
    if importlib.util.find_spec("torch"):
        runs["PyTorch, sigmoid loss"] = torch_stepper(path)
    best = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for name, take in runs.items():
            began = time.perf_counter()
            take(STEPS)
            best[name] = min(best[name], (time.perf_counter() - began) / STEPS)
    rows = [[name, 1000 * t, 1 / t, t / best["sigmoid"]] for name, t in best.items()]
    print(format_table(rows, [f"d = {D}, batch {BATCH}", "ms a step", "steps/s", "of the sigmoid loss"], digits=2))


def stepper(path: Path, workdir: Path, method: str):
    config = load_config(f"configs/embeddings.py:path={path},method={method}", [f"--config.train.batch_size={BATCH}"])
    run, mesh = set_up(config, workdir), make_mesh()
    state, one = start(run, mesh)
    done = 0

    def take(steps: int) -> None:
        nonlocal state, done
        for _ in range(steps):
            batch = batch_at(run.pairs, done, batch_size=BATCH, seed=0)
            batch.pop("index")
            state, _ = one(state, shard_batch(batch, mesh))
            done += 1
        jax.block_until_ready(state.params)

    take(3)
    return take


def torch_stepper(path: Path):
    """The same model, loss and optimizer in a plain PyTorch loop on the same arrays, in memory."""
    import torch

    sides = [
        torch.nn.functional.normalize(
            torch.from_numpy(np.load(path / name / f"{name}_0.npy").astype(np.float32)), dim=-1
        )
        * D**0.5
        for name in ("img_emb", "text_emb")
    ]
    heads = [
        torch.nn.Sequential(torch.nn.Linear(D, D // 4), torch.nn.GELU("tanh"), torch.nn.Linear(D // 4, D, bias=False))
        for _ in sides
    ]
    for head in heads:
        torch.nn.init.zeros_(head[2].weight)
    scale, bias = (torch.nn.Parameter(torch.tensor(x)) for x in (3.0, -5.0))
    params = [*(p for head in heads for p in head.parameters()), scale, bias]
    optimizer = torch.optim.AdamW(params, lr=3e-4)
    order = torch.Generator().manual_seed(0)

    def take(steps: int) -> None:
        for _ in range(steps):
            index = torch.randint(len(sides[0]), (BATCH,), generator=order)
            images, texts = (
                torch.nn.functional.normalize(x + head(x), dim=-1)
                for x, head in ((side[index], head) for side, head in zip(sides, heads, strict=True))
            )
            logits = scale.exp() * images @ texts.T + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.eye(BATCH), reduction="sum")
            optimizer.zero_grad()
            (loss / BATCH).backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

    take(3)
    return take


def epochs(folder: Path, n: int) -> None:
    """Prints the seconds of ten epochs, with compilation and validation."""
    path = write_pairs(folder, n)
    overrides = ["--config.train.epochs=10", "--config.train.patience=0", "--config.checkpoint.every=1000"]
    config = load_config(f"configs/embeddings.py:path={path}", overrides)
    began = time.perf_counter()
    run, _ = train(config, folder / "epochs")
    seconds = time.perf_counter() - began
    print(
        f"{len(run.pairs):,} training pairs, 10 epochs of propensity, {run.config.train.steps} steps: {seconds:.0f} s"
    )


def memory(folder: Path, n: int) -> None:
    """Prints the peak memory of this process after `vacsr train` on a file of n pairs."""
    path = write_pairs(folder, n)
    size = sum(file.stat().st_size for file in path.rglob("*.npy"))
    fields = ["--config.train.batch_size=1024", "--config.train.steps=600", "--config.checkpoint.every=200"]
    vacsr(["train", f"--config=configs/embeddings.py:path={path}", f"--workdir={folder / 'memory'}", *fields])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n:,} pairs of 2 x {D} numbers, {size / 2**30:.1f} GiB on disk: peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
