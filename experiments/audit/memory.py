"""Memory and time of an audit by size: `python -m experiments.audit.memory`.

Each size is audited by a process of its own, whose largest resident memory is read from the system. The embeddings are
random, the model is a cosine, and duplicates are not looked for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

SIZES = ((12_500, 62_500), (25_000, 125_000), (50_000, 250_000), (100_000, 500_000))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.audit.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes")
    parser.add_argument("--rows", type=int, default=0, help="judge only so many of the images; 0: all")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.dim, options.rows)))
        return
    print("| images | captions | pairs judged | items, MB | a float32 matrix, MB | peak memory, MB | seconds |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for n, m in SIZES[: options.sizes]:
        size = ["--one", str(n), str(m), "--dim", str(options.dim), "--rows", str(options.rows)]
        command = [sys.executable, "-m", "experiments.audit.memory", *size]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        items, matrix = 4e-6 * (n + m) * options.dim, 4e-6 * n * m
        print(
            f"| {n:,} | {m:,} | {found['pairs']:,} | {items:,.0f} | {matrix:,.0f} | {found['peak']:,.0f} | "
            f"{found['seconds']:,.0f} |",
            flush=True,
        )


def measure(n: int, m: int, dim: int, rows: int) -> dict:
    """Audits n random images and m captions that are noisy copies of them; returns peak memory in MB and seconds."""
    from pathlib import Path

    import jax
    import numpy as np

    from vacsr_jax.audit.findings import audit
    from vacsr_jax.audit.judge import Judge, Labelled
    from vacsr_jax.config_files import load_config
    from vacsr_jax.data.embedding_pairs import EmbeddingPairs
    from vacsr_jax.data.vectors import join
    from vacsr_jax.image_text import build_model, init_params
    from vacsr_jax.pretrained import EmbeddingModel
    from vacsr_jax.towers.embeddings import EmbeddingsConfig, EmbeddingSide

    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, dim), np.float32)
    image_of = np.sort(rng.integers(0, n, m))
    image_of[:n] = np.arange(n)
    image_of.sort()
    texts = images[image_of]
    for part in np.array_split(np.arange(m), 20):
        texts[part] += rng.standard_normal((len(part), dim), np.float32)
    source = EmbeddingPairs(Path("random"), join([images]), join([texts]), image_of).source(None)
    side = EmbeddingSide(dim)
    model = build_model(load_config("embeddings", []), EmbeddingsConfig(vision=side, text=side, embedding_dim=dim))
    judge = Judge(
        EmbeddingModel(model, jax.device_put(init_params(model, 0)), None),
        Labelled(source, source.text_image),
        np.arange(rows or n),
    )
    began = time.monotonic()
    audit([judge], 10_000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"peak": peak, "seconds": time.monotonic() - began, "pairs": len(judge.rows) * m}


if __name__ == "__main__":
    main()
