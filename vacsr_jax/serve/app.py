"""The HTTP API and the page as one application, and the server that runs it."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError

from vacsr_jax.atomic_files import parse_json
from vacsr_jax.search.stores.base import Known
from vacsr_jax.serve.batching import BusyError
from vacsr_jax.serve.engine import SECONDS, Engine, json_scores
from vacsr_jax.serve.guard import Guard, Refusal
from vacsr_jax.serve.pictures import Encoded, Pictures, encoded_picture
from vacsr_jax.serve.requests import Document, TooLargeError, parse_embed, parse_score, parse_search

CONNECTIONS = 1024  # at once; another one gets 503
SHOWN_FOR = "private, max-age=3600"  # how long a browser keeps a picture

# It neither counts who uses it, nor keeps long statistics of its events.
GRADIO = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**62),
}


def make_app(engine: Engine, uploads: Path, token: str | None = None) -> Guard:
    """The application: `/api/search`, `/api/score`, `/api/embed`, `/api/health`, the pictures, and the page at `/`.

    Args:
      uploads: an empty folder for the pictures that people drop on the page.
      token: see `Guard`.
    """
    os.environ.update(GRADIO, GRADIO_TEMP_DIR=str(uploads))  # read when Gradio is imported, and when a page is made
    import gradio

    from vacsr_jax.serve.page import build_page
    from vacsr_jax.serve.style import STYLE, make_theme

    app = FastAPI(title="vacsr", docs_url=None, redoc_url=None, openapi_url=None)
    pictures = Pictures()

    @app.post("/api/search")
    async def search(request: Request) -> Response:
        return reply(await answered(engine, request, parse_search))

    @app.post("/api/score")
    async def score(request: Request) -> Response:
        return reply(json_scores(await answered(engine, request, parse_score)))

    @app.post("/api/embed")
    async def embed(request: Request) -> Response:
        return reply(await answered(engine, request, parse_embed))

    @app.get("/api/health")
    async def health() -> Response:
        return reply(engine.health())

    @app.api_route("/api/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    async def other(rest: str) -> Response:
        raise Refusal(404, "expected POST /api/search, /api/score or /api/embed, or GET /api/health")

    @app.get("/thumbnail")
    async def thumbnail(id: str) -> Response:
        remembered = pictures.remembered(id)
        return shown(remembered or await encoded(engine, id, functools.partial(pictures.thumbnail, id)))

    @app.get("/picture")
    async def picture(id: str) -> Response:
        return shown(await encoded(engine, id, encoded_picture))

    app.add_exception_handler(404, absent)
    app.add_exception_handler(405, absent)
    blocks = build_page(engine)
    gradio.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=2**24,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        css=STYLE,
        theme=make_theme(),
    )
    mounted: Any = app.routes[-1]
    for one in (app, mounted.app):  # Gradio's is an application of its own
        one.add_exception_handler(Refusal, refused)
        one.add_exception_handler(RequestValidationError, incomplete)
    return Guard(app, uploads, token)


async def absent(request: Request, error: Any) -> Response:
    return reply({"error": "there is nothing here"}, 404)


async def incomplete(request: Request, error: Any) -> Response:
    return reply({"error": "a field is missing or has another type"}, 400)


async def refused(request: Request, refusal: Any) -> Response:
    response = reply({"error": " ".join(str(refusal).split())}, refusal.status)
    if refusal.status == 503:
        response.headers["Retry-After"] = "1"
    return response


async def answered(engine: Engine, request: Request, parse: Callable[[Any, Any], Any]) -> Any:
    """The engine's answer to a request with JSON.

    Raises:
      Refusal: with status 400 for a bad request, 413 for a large one, 415 for no JSON, 503 if the server is busy.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "expected JSON: send the header Content-Type: application/json")
    body = await request.body()
    try:
        async with asyncio.timeout(SECONDS):
            asked = await run_in_threadpool(lambda: parse(parse_json(body), engine.prepare))
            return await asyncio.wrap_future(engine.submit(asked))
    except TooLargeError as error:
        raise Refusal(413, str(error)) from None
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    except BusyError as error:
        raise Refusal(503, str(error)) from None
    except TimeoutError:  # an OSError as well
        raise Refusal(503, f"no answer within {SECONDS:g} s; ask for less, or try again later") from None
    except OSError as error:  # of the database that holds the documents
        raise Refusal(503, str(error)) from None


def reply(values: Any, status: int = 200) -> Response:
    return Response(json.dumps(values, ensure_ascii=False), status, media_type="application/json")


async def encoded(engine: Engine, document: str, encode: Callable[[Known], Encoded]) -> Encoded:
    """A picture of the index; a Refusal with status 404 if there is none that can be shown."""
    try:
        async with asyncio.timeout(SECONDS):
            known = await asyncio.wrap_future(engine.submit(Document(document)))
            return await run_in_threadpool(encode, known)
    except ValueError:  # whose message may name a file
        raise Refusal(404, f"the index has no picture {document!r:.200} that can be shown") from None
    except (BusyError, TimeoutError):
        raise Refusal(503, "the server is busy; try again in a moment") from None


def shown(picture: Encoded) -> Response:
    return Response(picture.blob, media_type=picture.media_type, headers={"Cache-Control": SHOWN_FOR})


class Server(uvicorn.Server):
    """Runs an application until SIGTERM or Ctrl-C, then finishes what is under way."""

    def __init__(self, app: Guard, host: str, port: int, opened: Callable[[int], None]):
        config = uvicorn.Config(
            app,
            host,
            port,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(SECONDS) + 5,
        )
        super().__init__(config)
        self._opened = opened

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._opened(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: Any = None) -> None:
        end_streams(self.config.app)
        await super().shutdown(sockets)


def end_streams(guard: Any) -> None:
    """Ends the connections that open pages hold, which would otherwise never end."""
    for route in guard.app.routes:
        event = getattr(getattr(route, "app", None), "stop_event", None)
        if event is not None:
            event.set()
