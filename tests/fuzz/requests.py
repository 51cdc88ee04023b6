"""Hostile requests to `vacsr serve`: bodies, addresses and headers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.inputs import TEXTS, broken, forged_pngs
from tests.fuzz.targets import PICTURES, picture

API = tuple(f"/api/{name}" for name in ("search", "score", "embed", "health"))
PAGE = (
    "upload",
    "queue/join",
    "queue/data",
    "cancel",
    "reset",
    "run/answer",
    "call/answer",
    "info",
    "component_server",
)
ADDRESSES = ("/thumbnail?id=", "/picture?id=", "/static/", "/assets/", "/", "/?token=", "/gradio_api/file=")
ADDRESSES += ("/gradio_api/file/", "/gradio_api/proxy=", "/gradio_api/heartbeat/x/", "/config?", "/theme.css/")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X")
HEADERS = ("authorization", "cookie", "origin", "host", "content-type", "content-length", "range", "x-forwarded-host")


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Requests:
    """A target with hostile requests to a good server. 5xx counts as a defect, 4xx as refused."""

    name: str

    def write(self, here: Path, outside: Path) -> None:
        from starlette.testclient import TestClient

        from tests.small_models import untrained
        from vacsr_jax.main import main
        from vacsr_jax.search.index import MixedIndex
        from vacsr_jax.serve.answers import model_of
        from vacsr_jax.serve.app import make_app
        from vacsr_jax.serve.engine import Engine

        for folder in (here, outside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        picture(outside / "secret.png", 0)
        for i, name in enumerate(PICTURES):
            picture(here / "pictures" / name, i)
        (here / "pictures" / "link.png").symlink_to("../../outside/gone.png")
        (here / "texts.txt").write_text("a red circle\na blue square\n")
        (here / "uploads").mkdir()
        untrained().save(here / "model")
        made_of = [f"--images={here / 'pictures'}", f"--texts={here / 'texts.txt'}"]
        main(["index", f"--model={here / 'model'}", *made_of, f"--out={here / 'index'}"])
        index = MixedIndex.load(here / "index")
        engine = Engine(index, model_of(index, None))
        engine.warm()

        async def make():
            return make_app(engine, here / "uploads")

        app = asyncio.run(make())
        object.__setattr__(self, "client", TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False))
        object.__setattr__(self, "secret", (outside / "secret.png").read_bytes())
        for path in ("/", "/config"):  # Gradio reads its templates
            self.client.get(path)
        for n, m in itertools.product((1, 2, 4, 8), repeat=2):  # compiling would write to its cache, and be an escape
            body = {"images": [{"id": "p0.png"}] * n, "texts": ["a red circle"] * m, "interval": 0.5}
            assert self.client.post("/api/score", json=body).status_code == 200
        for k in range(1, 1 + len(index)):
            for kind in ("p0.png", "texts.txt:1"):
                self.client.post("/api/search", json={"like": kind, "k": k})

    def changes(self, here: Path) -> st.SearchStrategy[Asked]:
        blob = (here / "pictures" / PICTURES[0]).read_bytes()
        names = st.sampled_from((*TEXTS, str(here.parent / "outside" / "secret.png"), "p0.png", "texts.txt:1"))
        return st.one_of(bodies(blob), bodies(blob), addresses(names), pages(here, names))

    def apply(self, here: Path, change: Asked) -> tuple[str, Callable[[], None]]:
        return f"{change.method} {change.path[:200]} {change.headers!r:.200} {change.body[:300]!r}", lambda: None

    def read(self, here: Path, change: Asked) -> None:
        asked = change or Asked("POST", "/api/search", JSON, b'{"text": "a red circle", "k": 2}')
        answer = self.client.request(asked.method, asked.path, headers=asked.headers, content=asked.body)
        if answer.status_code >= 500 or "Traceback" in answer.text:
            raise AssertionError(f"status {answer.status_code}: {answer.text[:300]}")
        if answer.content == self.secret or b"root:x:" in answer.content:
            raise AssertionError("a file was served")
        if answer.status_code >= 400:
            raise ValueError(f"status {answer.status_code}: {answer.text[:200]}")


JSON = {"content-type": "application/json"}


def good_bodies(blob: bytes) -> list[tuple[str, Any]]:
    """Requests that are answered."""
    encoded = base64.b64encode(blob).decode()
    return [
        ("/api/search", {"text": "a red circle", "k": 3, "prior": {"image": 0.5}, "modalities": ["image", "text"]}),
        ("/api/search", {"image": encoded, "k": 2, "rerank": False}),
        ("/api/search", {"like": "p0.png", "k": 2}),
        ("/api/score", {"images": [encoded, {"id": "p1.jpg"}], "texts": ["a", {"id": "texts.txt:1"}], "interval": 0.5}),
        ("/api/embed", {"texts": ["a red circle"], "images": [encoded]}),
    ]


def bodies(blob: bytes) -> st.SearchStrategy[Asked]:
    """Good requests to the API, broken as JSON or as bytes; and good ones with broken pictures."""
    posts = [
        broken("body.json", json.dumps(body).encode()).map(lambda x, path=path: Asked("POST", path, JSON, x[1]))
        for path, body in good_bodies(blob)
    ]
    files = st.one_of(broken("p.bin", blob).map(lambda x: x[1]), forged_pngs(), st.binary(max_size=40))
    posts.append(
        files.map(lambda x: json.dumps({"image": base64.b64encode(x).decode(), "k": 1}).encode()).map(
            lambda x: Asked("POST", "/api/search", JSON, x)
        )
    )
    return st.one_of(posts)


def addresses(names: st.SearchStrategy[str]) -> st.SearchStrategy[Asked]:
    """Odd addresses, methods and headers."""
    raw = names.map(lambda x: x.encode("utf-8", "surrogatepass"))
    coded = st.one_of(raw.map(lambda x: quote(x, safe="/.")), raw.map(lambda x: quote(x, safe="")))
    climbing = st.sampled_from(("", "../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "//", "http://127.0.0.1:1/", "file:///"))
    paths = st.builds(lambda a, b, c: (a + b + c)[:4000], st.sampled_from((*ADDRESSES, *API)), climbing, coded)
    values = names.map(lambda x: x.encode("ascii", "ignore").decode().replace("\0", "").replace("\n", "")[:200])
    headers = st.dictionaries(st.sampled_from(HEADERS), values, max_size=2)
    return st.builds(Asked, st.sampled_from(METHODS), paths, headers, st.just(b""))


def pages(here: Path, names: st.SearchStrategy[str]) -> st.SearchStrategy[Asked]:
    """What the page sends, with files that were never uploaded, and broken."""

    def event(name: str, number: int) -> dict[str, Any]:
        file = {"path": name, "url": f"http://127.0.0.1:1/{name}", "meta": {"_type": "gradio.FileData"}}
        return {"data": [file, None, None, 3, ["image"], True, 0, 0], "fn_index": number, "session_hash": "x"}

    events = st.builds(event, names, st.integers(-1, 20)).map(lambda x: json.dumps(x).encode())
    broken_events = broken("event.json", json.dumps(event("p0.png", 1)).encode()).map(lambda x: x[1])
    paths = st.sampled_from([f"/gradio_api/{name}" for name in PAGE if name != "queue/data"])
    return st.builds(Asked, st.just("POST"), paths, st.just(JSON), st.one_of(events, broken_events))


REQUEST_TARGETS = (Requests("requests"),)
