"""Time, recall and memory of a million vectors in each store: ours, FAISS, LanceDB, Milvus Lite, and Qdrant.

    python -m experiments.benchmarks.stores --out=stores.json

Half of the documents are images and half are texts, and all are ranked by the same rule. Each store has a process of
its own, one after another, which fills it, settles it, and asks it. What was measured is saved after each, and a store
that the file has already is not measured again. Vectors have numbers of variances 1, 1/2, 1/3, ..., as in
`mixed_index`. CPU time is that of the process; the database is in it, unless QDRANT_URL names a server. A store that
needs more memory than --memory ends, and is not saved. stores.md has the table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.benchmarks.mixed_index import MODALITIES, Truth, draw, spread
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.report.tables import format_table
from vacsr_jax.search.standardize import ranking

CHUNK = 16_384  # documents added at a time
BATCHES = (1, 64)
FIT_QUERIES = 64
IVF_LISTS, IVF_VISITED = 1024, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stores", help=f"separated by semicolons; by default all: {', '.join(STORES)}")
    parser.add_argument("--memory", type=float, default=12, help="GB of addresses that a store may take")
    parser.add_argument("--out", required=True, help="JSON of what was measured; it grows")
    parser.add_argument("--one", help="measure only this store and print it; for this program's own use")
    options = parser.parse_args()
    if options.one:
        resource.setrlimit(resource.RLIMIT_DATA, (int(options.memory * 1e9),) * 2)
        with TemporaryDirectory() as folder:
            print(json.dumps(measure(options.one, Path(folder), options)))
        return
    out = Path(options.out)
    setting = {name: getattr(options, name) for name in ("documents", "dim", "k", "repeats", "seed")}
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"setting": setting, "stores": {}}
    if found["setting"] != setting:
        raise SystemExit(f"{out}: measured with {found['setting']}, asked for {setting}; give another --out")
    for name in options.stores.split(";") if options.stores else STORES:
        if name not in found["stores"]:
            command = [sys.executable, "-m", "experiments.benchmarks.stores", *sys.argv[1:], f"--one={name}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{name}: ended with status {done.returncode}; not saved", file=sys.stderr)
                continue
            found["stores"][name] = json.loads(done.stdout.splitlines()[-1])
            write_text(out, to_json(found))
            print(f"measured: {name}", file=sys.stderr, flush=True)
    print(f"{setting}; {os.cpu_count()} cores, median (least to most)\n")
    print(format_table(*table(found["stores"])))


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What filling and asking a store took, and what it found."""
    queries = next(draw(options, max(*BATCHES, FIT_QUERIES), False, seed=options.seed + 1))
    queries = shaped(queries)
    make, after = STORES[name]
    store, truth = make(folder, options), Truth(queries, options.k)
    begun, filled, start = time.perf_counter(), 0.0, 0
    for i, vectors in enumerate(draw(options, options.documents, False, seed=options.seed, chunk=CHUNK)):
        vectors = shaped(vectors)
        ids = [str(j) for j in range(start, start + len(vectors))]
        start += len(vectors)
        begun = time.perf_counter()
        store.add(vectors, ids, MODALITIES[i % 2])
        filled += time.perf_counter() - begun
        truth.see(vectors, ids, MODALITIES[i % 2])
        print(f"\r{name}: {start:,} in {filled:.0f} s", end="", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    if hasattr(store, "settle"):
        store.settle()
    after(store, folder, options)
    settled = time.perf_counter() - begun
    stats = ranking.fit(store, queries[:FIT_QUERIES])
    search = store.search if hasattr(store, "search") else lambda *given: ranking.search(store, *given)
    times: dict[str, list[tuple[float, float]]] = {}
    for batch in BATCHES:
        search(stats, queries[:batch], options.k)  # compiles, and reads from the disk
        for _ in range(options.repeats):
            begun, used = time.perf_counter(), time.process_time()
            search(stats, queries[:batch], options.k)
            times.setdefault(str(batch), []).append((time.perf_counter() - begun, time.process_time() - used))
    found = {modality: store.topk(queries, options.k, modality)[0] for modality in store.modalities}
    return {
        "add": filled,
        "settle": settled,
        "recall": truth.recall(found),
        "times": times,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # KiB on Linux
        "disk": sum(x.stat().st_size for x in folder.rglob("*") if x.is_file()),
    }


def shaped(x: np.ndarray) -> np.ndarray:
    """The vectors with numbers of falling variance, in a fixed order."""
    return x / np.sqrt(1 + np.random.default_rng(0).permutation(x.shape[1])).astype(np.float32)


def ours(folder: Path, options: argparse.Namespace) -> Any:
    from vacsr_jax.search.index.exact import ExactStore

    return ExactStore()


def faiss_flat(folder: Path, options: argparse.Namespace) -> Any:
    from vacsr_jax.search.stores import FaissStore

    return FaissStore()


def lance(folder: Path, options: argparse.Namespace) -> Any:
    from vacsr_jax.search.stores import LanceStore

    return LanceStore(folder)


def lance_ivf(store: Any, folder: Path, options: argparse.Namespace) -> None:
    from lancedb.index import IvfPq

    config = IvfPq(distance_type="cosine", num_partitions=IVF_LISTS, num_sub_vectors=options.dim // 8)
    store.table.create_index(store.vector, config=config)


def milvus(exact: bool) -> Callable:
    def make(folder: Path, options: argparse.Namespace) -> Any:
        from pymilvus import MilvusClient

        from vacsr_jax.search.stores import MilvusStore

        return MilvusStore(MilvusClient(str(folder / "vectors.db")), "documents", exact=exact)

    return make


def qdrant(folder: Path, options: argparse.Namespace) -> Any:
    from qdrant_client import QdrantClient

    from vacsr_jax.search.stores import QdrantStore

    url = os.environ.get("QDRANT_URL")
    return QdrantStore(QdrantClient(url=url) if url else QdrantClient(":memory:"), "documents")


def nothing(store: Any, folder: Path, options: argparse.Namespace) -> None:
    pass


STORES = {  # name -> what makes the store, and what it does when all documents are in
    "ExactStore": (ours, nothing),
    "FaissStore, flat": (faiss_flat, nothing),
    "LanceStore, no index": (lance, nothing),
    "LanceStore, IVF-PQ": (lance, lance_ivf),
    "MilvusStore, Lite, FLAT": (milvus(True), nothing),
    "MilvusStore, Lite, AUTOINDEX": (milvus(False), nothing),
    "QdrantStore": (qdrant, nothing),
}


def table(found: dict[str, dict]) -> tuple[list[list], list[str]]:
    rows = []
    for name in STORES:
        x = found.get(name)
        if x is None:
            rows.append([name, *["not run"] * 8])
            continue
        times = [spread([wall for wall, _ in x["times"][str(batch)]]) for batch in BATCHES]
        cpu = spread([used for _, used in x["times"]["1"]])
        sizes = [f"{x[key] / 1e9:.2f}" for key in ("peak", "disk")]
        rows.append([name, *sizes, f"{x['add']:.0f}", f"{x['settle']:.0f}", times[0], cpu, times[1], x["recall"]])
    columns = ["peak memory, GB", "disk, GB", "add, s", "settle, s", "1 query, ms", "1 query, CPU ms", "64 queries, ms"]
    return rows, ["", *columns, "recall@20"]


if __name__ == "__main__":
    main()
