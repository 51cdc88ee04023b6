"""Memory while `vacsr embed` embeds many pictures, what a kill -9 costs, and whether shards equal one run.

    python -m experiments.benchmarks.embed_memory --pictures=100000 --out=embed_memory

Makes small JPEGs (300 different ones, the rest are links to them) and a tiny untrained model, so that a run takes
minutes. Writes memory.csv (seconds, megabytes resident, parts written), memory.png and result.json.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from configs import scenes
from vacsr_jax.data.embeddings import read_embeddings
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import build_model, init_params
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.checkpoint import config_to_dict

DIFFERENT = 300
EVERY = 0.5  # seconds between two samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=10_000, help="pictures of the runs that are killed or sharded")
    parser.add_argument("--part_size", type=int, default=1024)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="embed_memory_") as folder:
        work = Path(folder)
        make_model(work / "model")
        make_pictures(work / "many", options.pictures)
        make_pictures(work / "few", options.few)
        size = f"--part_size={options.part_size}"
        samples = run(work, "many", "embedded", size)
        few = {"part_size": size, "parts": -(-options.few // options.part_size)}
        result = {
            "pictures": options.pictures,
            "part_size": options.part_size,
            **summary(samples, len(read_embeddings(work / "embedded"))),
            **killed_and_sharded(work, **few),
        }
    with (options.out / "memory.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seconds", "megabytes", "parts"), *samples])
    plot(samples, options.out / "memory.png")
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make_model(folder: Path) -> None:
    config = scenes.get_config()
    tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=300, context_length=8)
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    model = build_model(config, adapt_towers(PRESETS["tiny"], image_size=0, context_length=8, **ids))
    params = jax.device_get(init_params(model, 0))
    Pretrained(model, params, tokenizer, config_to_dict(config), 0).save(folder)


def make_pictures(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / f"{i // 1000:04d}" / f"{i:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < DIFFERENT:
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
            coarse.resize((96, 72), Image.Resampling.BICUBIC).save(path)
        else:
            os.link(folder / "0000" / f"{i % DIFFERENT:07d}.jpg", path)


def start(work: Path, images: str, out: str, *more: str) -> subprocess.Popen:
    verb = ["embed", f"--model={work / 'model'}", f"--images={work / images}", f"--out={work / out}", *more]
    return subprocess.Popen([sys.executable, "-m", "vacsr_jax", *verb], stdout=subprocess.DEVNULL)


def run(work: Path, images: str, out: str, *more: str) -> list[tuple[float, float, int]]:
    """Runs the command to its end: (seconds, megabytes resident, parts written), sampled."""
    process, begun, samples = start(work, images, out, *more), time.perf_counter(), []
    while process.poll() is None:
        samples.append((round(time.perf_counter() - begun, 2), resident(process.pid), parts(work / out)))
        time.sleep(EVERY)
    if process.returncode:
        raise RuntimeError(f"vacsr embed ended with {process.returncode}")
    return [x for x in samples if x[1]]


def resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def parts(folder: Path) -> int:
    return sum(1 for _ in folder.glob("part-*.npz"))


def summary(samples: list[tuple[float, float, int]], embedded: int) -> dict:
    """How much memory grows: a line fitted to the samples between the first 10 % of the parts and the end."""
    seconds, megabytes, done = np.array(samples).T
    steady = done >= max(1, done.max() // 10)
    slope = np.polyfit(done[steady], megabytes[steady], 1)[0]
    first, last = np.array_split(megabytes[steady], 4)[0], np.array_split(megabytes[steady], 4)[-1]
    return {
        "embedded": embedded,
        "seconds": float(seconds[-1]),
        "images_per_s": embedded / float(seconds[-1]),
        "peak_megabytes": float(megabytes.max()),
        "median_of_the_first_quarter_megabytes": float(np.median(first)),
        "median_of_the_last_quarter_megabytes": float(np.median(last)),
        "megabytes_a_part": float(slope),
    }


def killed_and_sharded(work: Path, part_size: str, parts: int) -> dict:
    """A run killed with -9 and resumed, and two shards at once, beside one run."""
    run(work, "few", "one", part_size)
    kept = kill_midway(work, parts // 2, part_size)
    run(work, "few", "killed", part_size)
    redone = [name for name, number in kept.items() if (work / "killed" / name).stat().st_ino != number]
    shards = [start(work, "few", "sharded", part_size, f"--shard={i}/2") for i in range(2)]
    if any(shard.wait() for shard in shards):
        raise RuntimeError("a shard failed")
    one = hashes(work / "one")
    return {
        "parts_before_the_kill": len(kept),
        "parts_in_all": parts,
        "parts_redone": len(redone),
        "killed_and_resumed_equals_one_run": hashes(work / "killed") == one,
        "two_shards_equal_one_run": hashes(work / "sharded") == one,
    }


def kill_midway(work: Path, enough: int, part_size: str) -> dict[str, int]:
    """Kills the command once there are enough parts; each part that is there and its inode."""
    process = start(work, "few", "killed", part_size)
    while parts(work / "killed") < enough:
        if process.poll() is not None:
            raise RuntimeError("vacsr embed ended before it could be killed; take more pictures")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {path.name: path.stat().st_ino for path in (work / "killed").glob("part-*.npz")}


def hashes(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, and its hash."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def plot(samples: list[tuple[float, float, int]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    seconds, megabytes, _ = zip(*samples, strict=True)
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(seconds, megabytes)
    axes.set(xlabel="seconds", ylabel="MB resident", ylim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
