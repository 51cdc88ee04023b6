"""Memory and latency of exact mixed search: our index beside FAISS, each in its own process.

    python -m experiments.benchmarks.mixed_index

Half of the documents are images and half are texts, drawn from a seed. All systems get the same documents and rank them
by the same rule: one list per modality, then one merge. CPU time is that of the process. With one thread, on a shared
machine, it is the latency on a quiet one. mixed_index.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from vacsr_jax.report.tables import format_table
from vacsr_jax.search.standardize import ranking

FLAT = "FAISS IndexFlatIP, float32"
BLAS = f"{FLAT}, BLAS from 20 queries on"  # FAISS 1.15's default is 250
QUANTIZED = "FAISS IndexScalarQuantizer, bfloat16"
SYSTEMS = ("MixedIndex, bfloat16", FLAT, BLAS, QUANTIZED)
MODALITIES = ("image", "text")
CHUNK = 16_384  # documents drawn and added at a time
BATCHES = (1, 64)
FIT_QUERIES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="use 1 on a shared machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", choices=SYSTEMS, help="measure only this system, in this process, and print JSON")
    options = parser.parse_args()
    if options.system:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # must precede JAX's start
        print(json.dumps(measure(options, options.system)))
        return
    found = [in_own_process(system, options.threads) for system in SYSTEMS]
    size = f"{options.documents:,} x {options.dim}, k {options.k}, seed {options.seed}"
    print(f"{size}; {options.threads} of {os.cpu_count()} cores, {options.repeats} repeats: median (least to most)\n")
    print(format_table(*table(found)))


def in_own_process(system: str, threads: int) -> dict:
    command = [sys.executable, "-m", "experiments.benchmarks.mixed_index", *sys.argv[1:], f"--system={system}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return json.loads(answer.splitlines()[-1])


def measure(options: argparse.Namespace, system: str) -> dict:
    """Builds, fits and searches one system. Returns bytes, seconds and the results."""
    rng = np.random.default_rng(options.seed)
    queries = rng.standard_normal((max(*BATCHES, FIT_QUERIES), options.dim), np.float32)
    store, add, nbytes = make(system, options.dim)
    built = 0.0
    for i, start in enumerate(range(0, options.documents, CHUNK)):
        n = min(CHUNK, options.documents - start)
        vectors = rng.standard_normal((n, options.dim), np.float32)
        ids = [str(j) for j in range(start, start + n)]
        begun = time.perf_counter()
        add(vectors, ids, MODALITIES[i % 2])
        built += time.perf_counter() - begun
    begun = time.perf_counter()
    stats = ranking.fit(store, queries[:FIT_QUERIES])
    result = {"build": built, "fit": time.perf_counter() - begun}
    for batch in BATCHES:
        seconds = []
        for _ in range(options.repeats + 1):  # the first compiles
            begun, used = time.perf_counter(), time.process_time()
            hits = ranking.search(store, stats, queries[:batch], options.k)
            seconds.append((time.perf_counter() - begun, time.process_time() - used))
        result[f"batch {batch}"] = seconds[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    return result | {"system": system, "peak": peak, "bytes": nbytes(), "ids": hits.ids.tolist()}


def make(system: str, dim: int):
    """Returns a store, a function that adds to it, and a function that gives the bytes of its vectors."""
    if system == SYSTEMS[0]:
        from vacsr_jax.search.index import MixedIndex

        index = MixedIndex()
        return index.store, index.add, lambda: index.store.nbytes
    import faiss

    from vacsr_jax.search.stores import FaissStore

    def make_bfloat16(_):
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)

    if system == BLAS:
        faiss.cvar.distance_compute_blas_threshold = 20 * dim  # counted as queries times dimension
    store = FaissStore(make_bfloat16 if system == QUANTIZED else None)
    return (
        store,
        store.add,
        lambda: sum(store.indexes[name].sa_code_size() * store.count(name) for name in store.modalities),
    )


def table(found: list[dict]) -> tuple[list[list], list[str]]:
    """Returns the rows of the table. Agreement is the share of results that float32 finds too."""
    exact = next(x for x in found if x["system"] == FLAT)["ids"]
    rows = []
    for x in found:
        agree = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(x["ids"], exact, strict=True)])
        times = [spread(column) for batch in BATCHES for column in zip(*x[f"batch {batch}"], strict=True)]
        rows.append(
            [
                x["system"],
                gigabytes(x["bytes"]),
                gigabytes(x["peak"]),
                *times,
                f"{x['build']:.0f}",
                f"{x['fit']:.1f}",
                float(agree),
            ]
        )
    columns = [
        "",
        "index, GB",
        "peak RSS, GB",
        *(f"batch {b}, {kind} ms" for b in BATCHES for kind in ("wall", "CPU")),
        "build, s",
    ]
    return rows, [*columns, f"fit of {FIT_QUERIES}, s", "as float32"]


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.2f}"


def spread(seconds: list[float]) -> str:
    ms = sorted(1e3 * x for x in seconds)
    return f"{ms[len(ms) // 2]:.0f} ({ms[0]:.0f} to {ms[-1]:.0f})"


if __name__ == "__main__":
    main()
