"""`vacsr serve` under load: 64 clients at once, every answer compared with the command line's, memory over time.

`python -m experiments.benchmarks.serve_load --out=serve_load` makes a model and an index of scenes, starts the server
as a process of its own, asks 20,000 times, and writes a table (.md) and the memory (.csv). Seed 0. The model is the
tiny preset after 20 steps: its answers are not good, but they must be the same everywhere.
"""

from __future__ import annotations

import argparse
import base64
import csv
import http.client
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import vacsr_jax
from experiments.benchmarks.timing import machine
from vacsr_jax.atomic_files import write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.report.tables import format_table

ASKED = 32  # different texts, and as many pictures
K = 10
SAMPLES = 40  # of the memory
VACSR = [sys.executable, "-m", "vacsr_jax"]
# A batch of another size adds in another order: how far numbers may differ. z is a cosine divided by a small spread.
CLOSE = {"z": 1e-3, "cosine": 1e-5}
OTHER = 1e-4


class Kind(NamedTuple):
    """Requests of one kind with the answers that they must get; `share` of all requests."""

    name: str
    path: str
    bodies: list[bytes]
    answers: list[Any]
    share: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--documents", type=int, default=500, help="pictures; there are as many texts")
    parser.add_argument("--out", default="serve_load", help="files without their endings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = make(Path(folder), options.documents)
        text, memory = measure(Path(folder), kinds, options.requests, options.clients)
    write_text(Path(f"{options.out}.md"), text)
    with io.StringIO() as file:
        csv.writer(file).writerows([("requests", "MiB"), *memory])
        write_text(Path(f"{options.out}.csv"), file.getvalue())
    print(text)


def make(folder: Path, documents: int) -> list[Kind]:
    """A model, an index, and requests with the answers of `vacsr search --json` and of `vacsr_jax.load`."""
    sizes = [f"--config.data.{name}_size={max(documents, 200)}" for name in ("train", "validation", "test")]
    steps = ["--config.train.steps=20", "--config.optim.warmup_steps=5", "--config.checkpoint.every=20"]
    run("train", "--config=scenes", f"--workdir={folder / 'run'}", *steps, *sizes)
    source = open_split(load_config("scenes", sizes), "test")
    texts = list(dict.fromkeys(caption_pairs(source)[0]))[:documents]
    (folder / "pictures").mkdir()
    for i in range(documents):
        Image.fromarray(source.image(i)).save(folder / "pictures" / f"{i:05d}.png")
    (folder / "texts.txt").write_text("\n".join(texts))
    made_of = [f"--images={folder / 'pictures'}", f"--texts={folder / 'texts.txt'}"]
    run("index", f"--model={folder / 'run'}", *made_of, f"--out={folder / 'index'}")
    files = [folder / "pictures" / f"{i:05d}.png" for i in range(ASKED)]
    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    asked, rerank = texts[:ASKED], f"--rerank={folder / 'run'}"
    by_text = searched(folder, *(f"--text={x}" for x in asked))
    reranked = searched(folder, *(f"--text={x}" for x in asked), rerank)
    by_picture = searched(folder, *(f"--image={x}" for x in files))
    model = vacsr_jax.load(folder / "run")
    scores = [model.score([file], asked[:4])._asdict() for file in files]
    vectors = model.cosine_vectors(model.encode_texts(asked))
    plain = {"k": K, "rerank": False}
    return [
        kind("search, a text", "search", [{"text": x, **plain} for x in asked], by_text, 8),
        kind("search, a text, re-ranked", "search", [{"text": x, "k": K} for x in asked], reranked, 4),
        kind("search, a picture", "search", [{"image": x, **plain} for x in encoded], by_picture, 4),
        kind("score, 1 x 4", "score", [{"images": [x], "texts": asked[:4]} for x in encoded], scores, 2),
        kind("embed, a text", "embed", [{"texts": [x]} for x in asked], [{"texts": [x]} for x in vectors], 2),
    ]


def kind(name: str, path: str, bodies: list[Any], answers: list[Any], share: int) -> Kind:
    return Kind(name, f"/api/{path}", [json.dumps(x).encode() for x in bodies], answers, share)


def run(*arguments: str) -> str:
    done = subprocess.run([*VACSR, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"vacsr {arguments[0]}: {done.stderr}")
    return done.stdout


def searched(folder: Path, *options: str) -> list[Any]:
    """The answers of the command line."""
    return [
        json.loads(x) for x in run("search", f"--index={folder / 'index'}", f"--k={K}", "--json", *options).splitlines()
    ]


def measure(folder: Path, kinds: list[Kind], requests: int, clients: int) -> tuple[str, list[tuple[int, float]]]:
    """Starts the server, asks, stops it by SIGTERM while requests are under way; the tables, and the memory."""
    command = [*VACSR, "serve", f"--index={folder / 'index'}", f"--rerank={folder / 'run'}", "--port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    ready = server.stdout.readline()
    port = int(ready.rsplit(":", 1)[1])
    results: list[tuple[str, float, str]] = []
    memory, began = [(0, resident(server.pid))], time.perf_counter()
    order = [x for x in kinds for _ in range(x.share)]
    tickets, lock = itertools.count(), threading.Lock()

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (ticket := next(tickets)) < requests:
            kind, j = order[ticket % len(order)], ticket // len(order) % ASKED
            start = time.perf_counter()
            status, answer = post(connection, kind.path, kind.bodies[j])
            seconds = time.perf_counter() - start
            verdict = compared(answer, kind.answers[j]) if status == 200 else f"status {status}"
            with lock:
                results.append((kind.name, seconds, verdict))
                if len(results) % max(1, requests // SAMPLES) == 0:
                    memory.append((len(results), resident(server.pid)))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - began
    finished, stopped = stop(server, port, kinds[0], clients)
    return tables(results, memory, seconds, requests, clients, ready, finished, stopped), memory


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, Any]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def compared(got: Any, expected: Any) -> str:
    """ "equal"; "near tie" if neighbours whose z differ by rounding alone changed places; else "wrong"."""
    if "hits" not in expected:
        pairs = [(got[name], x) for name, x in expected.items()]
        same = all(x is None if y is None else np.allclose(x, y, atol=OTHER, rtol=OTHER) for x, y in pairs)
        return "equal" if same else "wrong"
    mine, theirs = got["hits"], expected["hits"]
    if [x["id"] for x in mine] != [x["id"] for x in theirs]:
        apart = [abs((x["z"] or 0) - (y["z"] or 0)) for x, y in zip(mine, theirs, strict=True)]
        return "near tie" if max(apart) < CLOSE["z"] else "wrong"
    close: Callable[[str, Any, Any], bool] = lambda name, x, y: (  # noqa: E731
        x == y if isinstance(y, str | None) else x is not None and abs(x - y) <= CLOSE.get(name, OTHER)
    )
    return "equal" if all(close(n, x[n], y[n]) for x, y in zip(mine, theirs, strict=True) for n in y) else "wrong"


def stop(server: subprocess.Popen, port: int, kind: Kind, clients: int) -> tuple[int, float]:
    """SIGTERM while every client waits for an answer; how many got a right one, and the seconds until the end."""

    def ask(i: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        sent.wait()
        return compared(post(connection, kind.path, kind.bodies[i % ASKED])[1], kind.answers[i % ASKED]) == "equal"

    sent = threading.Barrier(clients + 1)
    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(ask, i) for i in range(clients)]
        sent.wait()
        time.sleep(0.1)  # for the requests to arrive
        began = time.perf_counter()
        os.kill(server.pid, signal.SIGTERM)
        finished = sum(x.exception() is None and x.result() for x in asked)
    if server.wait(60):
        raise SystemExit(f"the server ended with status {server.returncode}")
    return finished, time.perf_counter() - began


def resident(process: int) -> float:
    """The memory of a process in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def tables(
    results: list[tuple[str, float, str]],
    memory: list[tuple[int, float]],
    seconds: float,
    requests: int,
    clients: int,
    ready: str,
    finished: int,
    stopped: float,
) -> str:
    rows = []
    for name in [*dict.fromkeys(x[0] for x in results), "all"]:
        mine = [x for x in results if name in (x[0], "all")]
        p50, p99 = np.quantile([x[1] for x in mine], [0.5, 0.99]) * 1000
        counts = [sum(x[2] == verdict for x in mine) for verdict in ("equal", "near tie")]
        rows.append([name, len(mine), *counts, len(mine) - sum(counts), f"{p50:.0f} ms", f"{p99:.0f} ms"])
    columns = ["request", "asked", "equal", "near tie", "wrong or refused", "p50", "p99"]
    early, late = (np.mean([x for n, x in memory if low <= n <= high]) for low, high in quarters(requests))
    return "\n".join(
        [
            f"`python -m experiments.benchmarks.serve_load --requests={requests} --clients={clients}`, seed 0, "
            f"{machine()}.",
            "",
            format_table(rows, columns, markdown=True),
            "",
            f"{requests:,} requests by {clients} clients at once in {seconds:.0f} s: {requests / seconds:.0f} a "
            f"second. The server was {ready.partition(':')[0].strip()}. Load of the machine at the end: "
            f"{os.getloadavg()[0]:.1f}.",
            "",
            f"Memory of the server: {early:.0f} MiB in the second quarter of the requests, {late:.0f} MiB in the last "
            f"({late - early:+.1f} MiB).",
            "",
            f"SIGTERM while {clients} requests were under way: {finished} were answered rightly, and the server ended "
            f"after {stopped:.1f} s with status 0.",
            "",
        ]
    )


def quarters(requests: int) -> tuple[tuple[float, float], tuple[float, float]]:
    return (requests / 4, requests / 2), (3 * requests / 4, requests)


if __name__ == "__main__":
    main()
