"""Memory, time and hits of mixed search: our index beside FAISS, exact and approximate.

    python -m experiments.benchmarks.mixed_index --threads=1

Half of the documents are images and half are texts. All systems get the same documents and rank them by the same rule:
one list per modality, then one merge. Each system has its own process, for its memory; all are asked in turns, so that
the machine is equally busy for each. CPU time is that of the process: with one thread, on a shared machine, it is the
latency on a quiet one.

The exact systems search `--documents` random vectors. The approximate ones search `--many` documents whose numbers have
variances 1, 1/2, 1/3, ...: neighbours of vectors that are alike in all directions cannot be found without comparing
all. mixed_index.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vacsr_jax.report.tables import format_table
from vacsr_jax.search.standardize import ranking

OURS = "MixedIndex, 16-bit codes"
FLAT = "FAISS IndexFlatIP, float32"
QUANTIZED = "FAISS IndexScalarQuantizer, bfloat16"
EXACT = (OURS, FLAT, QUANTIZED)
APPROXIMATE = {  # codes of FAISS's index factory, and the lists that a query visits
    "FAISS IVF-PQ, 64 bytes": ("PQ64", 32),
    "FAISS IVF-SQ, 8 bits": ("SQ8", 32),
}
MODALITIES = ("image", "text")
CHUNK = 16_384  # documents drawn and added at a time
TRAINED_ON = 131_072  # documents of a modality that the lists and codes of an approximate index are learnt from
BATCHES = (1, 64)
FIT_QUERIES = 64
TWINS = 256  # documents that have another one beside them, at this cosine
TWIN_COSINE = 0.9998
BLAS_FROM = 20  # queries; FAISS 1.15's default of 250 makes 64 queries six times as slow


class Store(NamedTuple):
    """A store, a function that adds to it, and one that gives the bytes of its vectors."""

    store: Any
    add: Callable
    nbytes: Callable[[], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the exact systems")
    parser.add_argument("--many", type=int, default=10_000_000, help="of the approximate systems; 0 leaves them out")
    parser.add_argument("--dim", type=int, default=512, help="of the exact systems' vectors")
    parser.add_argument("--many_dim", type=int, default=128, help="of the approximate systems' vectors")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="use 1 on a shared machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write what was measured as JSON too")
    parser.add_argument(
        "--system", help="measure only this system, asked on standard input; for this program's own use"
    )
    options = parser.parse_args()
    if options.system:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # must precede JAX's start
        serve(options, options.system)
        return
    found = in_turns(options, EXACT)
    for system in APPROXIMATE if options.many else ():
        found += in_turns(options, [system])
    size = f"{options.dim} or {options.many_dim} numbers, k {options.k}, seed {options.seed}"
    print(f"{size}; {options.threads} of {os.cpu_count()} cores, {options.repeats} repeats: median (least to most)\n")
    print(format_table(*table(found)))
    print(f"\none query, {OURS} / {FLAT}: {ratio(found):.2f} of the CPU time, in turns")
    print(f"reading the bytes of {FLAT} once, one thread: {1e3 * min(read_seconds(options)):.0f} ms")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump([{name: x for name, x in one.items() if name != "ids"} for one in found], file, indent=1)


def in_turns(options: argparse.Namespace, systems) -> list[dict]:
    """Builds each system in a process of its own, then asks all of them, one after another, `repeats` times."""
    command = [sys.executable, "-m", "experiments.benchmarks.mixed_index", *sys.argv[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes, found = [], []
    try:
        for system in systems:
            processes.append(subprocess.Popen([*command, f"--system={system}"], **pipes))
            found.append(answer(processes[-1]) | {f"batch {batch}": [] for batch in BATCHES})
            print(f"built: {system}", file=sys.stderr, flush=True)
        for _ in range(options.repeats):
            for batch in BATCHES:
                for process, one in zip(processes, found, strict=True):
                    process.stdin.write(f"{batch}\n")
                    process.stdin.flush()
                    one[f"batch {batch}"].append(answer(process))
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()
    return found


def answer(process: subprocess.Popen):
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a system stopped without an answer; its error stands above")
    return json.loads(line)


def serve(options: argparse.Namespace, system: str) -> None:
    """Builds a system and prints what it is; then prints seconds for each batch size that is read."""
    result, ask = build(options, system)
    print(json.dumps(result), flush=True)
    for line in sys.stdin:
        print(json.dumps(ask(int(line))), flush=True)


def build(options: argparse.Namespace, system: str) -> tuple[dict, Callable[[int], tuple[float, float]]]:
    """What building and fitting a system took and what it finds; and a function that searches with some queries."""
    approximate = system in APPROXIMATE
    queries = next(draw(options, max(*BATCHES, FIT_QUERIES), approximate, seed=options.seed + 1))
    made = make(system, options)
    first, truth, taken = None, Truth(queries, options.k) if approximate else None, 0.0
    for i, vectors in enumerate(documents(options, approximate)):
        first = vectors[:TWINS].copy() if first is None else first
        start = taken_ids(made.store)
        ids = [str(j) for j in range(start, start + len(vectors))]
        begun = time.perf_counter()
        made.add(vectors, ids, MODALITIES[i % 2])
        taken += time.perf_counter() - begun
        if truth:
            truth.see(vectors, ids, MODALITIES[i % 2])
    made.add(twins(first), [f"twin {i}" for i in range(len(first))], MODALITIES[0])
    begun = time.perf_counter()
    stats = ranking.fit(made.store, queries[:FIT_QUERIES])
    fit = time.perf_counter() - begun

    def search(n: int):
        return ranking.search(made.store, stats, queries[:n], options.k)

    def ask(n: int) -> tuple[float, float]:
        begun, used = time.perf_counter(), time.process_time()
        search(n)
        return time.perf_counter() - begun, time.process_time() - used

    result = {
        "system": system,
        "documents": options.many if approximate else options.documents,
        "build": taken,
        "fit": fit,
    }
    result["own"] = float(
        np.mean(made.store.topk(first, 1, MODALITIES[0])[0][:, 0] == [str(i) for i in range(len(first))])
    )
    found = {name: made.store.topk(queries, options.k, name)[0] for name in made.store.modalities}
    result["recall"] = truth.recall(found) if truth else None
    for batch in BATCHES:
        search(batch)  # compiles
    result["ids"] = search(max(BATCHES)).ids.tolist()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    return result | {"peak": peak, "bytes": made.nbytes()}, ask


def documents(options: argparse.Namespace, approximate: bool) -> Iterator[np.ndarray]:
    n, chunk = (options.many, TRAINED_ON) if approximate else (options.documents, CHUNK)
    yield from draw(options, n, approximate, seed=options.seed, chunk=min(chunk, -(-n // 2)))


def draw(options: argparse.Namespace, n: int, approximate: bool, *, seed: int, chunk: int | None = None):
    """Random vectors [chunk, dim], n in all."""
    rng, dim = np.random.default_rng(seed), options.many_dim if approximate else options.dim
    scale = 1 / np.sqrt(1 + np.random.default_rng(0).permutation(dim)) if approximate else np.ones(dim)
    scale = scale.astype(np.float32)
    for start in range(0, n, chunk or n):
        yield rng.standard_normal((min(chunk or n, n - start), dim), np.float32) * scale


def taken_ids(store) -> int:
    return sum(map(store.count, store.modalities))


def twins(x: np.ndarray) -> np.ndarray:
    """Vectors at the cosine TWIN_COSINE of x."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    aside = np.random.default_rng(1).standard_normal(x.shape)
    aside -= np.sum(aside * x, axis=1, keepdims=True) * x
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return (TWIN_COSINE * x + np.sqrt(1 - TWIN_COSINE**2) * aside).astype(np.float32)


class Truth:
    """The exact best k of each modality, kept while documents pass by."""

    def __init__(self, queries: np.ndarray, k: int):
        self.queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        self.k, self.best = k, {}

    def see(self, vectors: np.ndarray, ids: list[str], modality: str) -> None:
        scores = self.queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        kept = (
            np.argpartition(-scores, self.k - 1, axis=1)[:, : self.k]
            if len(ids) > self.k
            else np.argsort(-scores, axis=1)
        )
        new = np.take_along_axis(scores, kept, axis=1), np.array(ids, object)[kept]
        old = self.best.get(modality)
        scores, names = (np.concatenate(x, axis=1) for x in zip(old, new, strict=True)) if old else new
        order = np.argsort(-scores, axis=1)[:, : self.k]
        self.best[modality] = np.take_along_axis(scores, order, axis=1), np.take_along_axis(names, order, axis=1)

    def recall(self, found: dict[str, np.ndarray]) -> float:
        """The share of the exact k best that was found, over both modalities."""
        pairs = [(a, b) for name in found for a, b in zip(found[name], self.best[name][1], strict=True)]
        return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def make(system: str, options: argparse.Namespace) -> Store:
    if system == OURS:
        from vacsr_jax.search.index import MixedIndex

        index = MixedIndex()
        return Store(index.store, index.add, lambda: index.store.nbytes)
    import faiss

    from vacsr_jax.search.stores import FaissStore

    faiss.omp_set_num_threads(options.threads)
    faiss.cvar.distance_compute_blas_threshold = BLAS_FROM * options.dim  # counted as queries times dimension

    def make_index(dim: int):
        if system == FLAT:
            return faiss.IndexFlatIP(dim)
        if system == QUANTIZED:
            return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
        code, visited = APPROXIMATE[system]
        lists = 1 << int(options.many**0.5).bit_length() - 1
        index = faiss.index_factory(dim, f"IVF{lists},{code}", faiss.METRIC_INNER_PRODUCT)
        index.nprobe, index.cp.niter = visited, 10
        if isinstance(index, faiss.IndexIVFPQ):
            index.pq.cp.niter, index.do_polysemous_training = (
                10,
                False,
            )  # that takes minutes, for a use that is not ours
        return index

    store = FaissStore(make_index)
    return Store(store, store.add, lambda: sum(map(size_of, store.indexes.values())))


def size_of(index) -> int:
    """The bytes of the codes, and of list numbers in an index of lists (8 each, and its centres)."""
    import faiss

    if isinstance(index, faiss.IndexIVF):
        return (index.code_size + 8) * index.ntotal + 4 * index.d * index.nlist
    return index.sa_code_size() * index.ntotal


def read_seconds(options: argparse.Namespace) -> list[float]:
    """Seconds to read as many bytes as the float32 vectors have, in one thread: what bounds one query."""
    x = np.ones(options.documents * options.dim // 2, np.float64)
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        x.max()
        seconds.append(time.process_time() - begun)
    return seconds


def ratio(found: list[dict]) -> float:
    """Median over the turns of our CPU time over FAISS's for one query."""
    ours, theirs = (next(x for x in found if x["system"] == system)["batch 1"] for system in (OURS, FLAT))
    return float(np.median([a[1] / b[1] for a, b in zip(ours, theirs, strict=True)]))


def table(found: list[dict]) -> tuple[list[list], list[str]]:
    """Returns the rows of the table. Agreement is the share of results that float32 finds too."""
    exact = next(x for x in found if x["system"] == FLAT)["ids"]
    rows = []
    for x in found:
        agree = x["recall"]
        if agree is None:
            agree = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(x["ids"], exact, strict=True)])
        times = [spread(column) for batch in BATCHES for column in zip(*x[f"batch {batch}"], strict=True)]
        sizes = [f"{x['documents']:,}", gigabytes(x["bytes"]), gigabytes(x["peak"])]
        rows.append([x["system"], *sizes, *times, f"{x['build']:.0f}", f"{x['fit']:.1f}", float(agree), x["own"]])
    columns = [
        "",
        "documents",
        "index, GB",
        "peak RSS, GB",
        *(f"batch {b}, {kind} ms" for b in BATCHES for kind in ("wall", "CPU")),
        "build, s",
    ]
    return rows, [*columns, f"fit of {FIT_QUERIES}, s", "as float32", f"own first hit at {TWIN_COSINE}"]


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.2f}"


def spread(seconds: list[float]) -> str:
    ms = sorted(1e3 * x for x in seconds)
    return f"{ms[len(ms) // 2]:.0f} ({ms[0]:.0f} to {ms[-1]:.0f})"


if __name__ == "__main__":
    main()
