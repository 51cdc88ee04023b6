"""What stands before every request: who may ask, for which address, and how much they may send."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vacsr_jax.serve.requests import BODY_BYTES, UPLOAD_BYTES

API = "/api/"
COOKIE = "vacsr_token"
BODY_SECONDS = 30.0  # until a request's body must be there
PAGE_BYTES = 2**18  # of what the page sends, apart from uploads
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

# The page's own addresses. Gradio has more, some of which read files or fetch addresses: they do not exist here.
OWN = ("/", "/thumbnail", "/picture", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
READS = ("startup-events", "queue/data", "upload_progress", "theme.css", "info")
GET = (*OWN, *(f"/gradio_api/{name}" for name in READS))
GET_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
POST = tuple(f"/gradio_api/{name}" for name in ("queue/join", "upload", "cancel", "reset"))
UPLOADED = "/gradio_api/file="

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'",
    ),
]


class Refusal(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


class Guard:
    """An ASGI application around another one.

    Args:
      app: the application.
      uploads: the folder of uploaded pictures, the only one from which Gradio may serve a file.
      token: what each request must bring, as `Authorization: Bearer TOKEN` or a cookie, which `/?token=TOKEN` sets.
        Without one, the request must name this machine as its host, so that no web page can reach the server by a
        name of its own.
    """

    def __init__(self, app: Any, uploads: Path, token: str | None = None):
        self.app, self._uploads, self._token = app, os.path.realpath(uploads), token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def answer(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if message["status"] >= 500 and scope["path"].startswith("/gradio_api/"):  # it failed at a bad event
                    raise Refusal(400, "this is nothing that the page sends")
                started = True
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            if self._token is not None and (given := given_token(scope)) is not None:
                self._check(given)
                return await enter(given, answer)
            self._check_sender(headers)
            self._check_address(scope["method"], scope["path"])
            await self.app(scope, limited(receive, limit_of(scope["path"]), headers), answer)
        except Refusal as refusal:
            if not started:
                await say(answer, refusal.status, str(refusal))
        except asyncio.CancelledError:
            raise
        except Exception:
            logging.getLogger(__name__).exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await say(answer, 500, "the server failed; its log says why")

    def _check_sender(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin not in (None, "null") and urlsplit(origin).netloc != host:
            raise Refusal(403, f"a page of {origin:.100} may not ask this server")
        if self._token is None:
            if host.rpartition(":")[0] not in LOOPBACK and host not in LOOPBACK:
                raise Refusal(403, f"host: got {host:.100}, expected {' or '.join(LOOPBACK)}")
            return
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        self._check(bearer if kind.lower() == "bearer" else cookie.value if cookie else "")

    def _check(self, given: str) -> None:
        assert self._token is not None
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refusal(
                401, "this server wants its token: Authorization: Bearer TOKEN, or /?token=TOKEN in a browser"
            )

    def _check_address(self, method: str, path: str) -> None:
        if path.startswith(API):  # these have rules of their own
            return
        if method in ("GET", "HEAD"):
            known = path in GET or (path.startswith(GET_BELOW) and ".." not in path.split("/"))
            known = known or (path.startswith(UPLOADED) and self._is_upload(path.removeprefix(UPLOADED)))
        else:
            known = method == "POST" and path in POST
        if not known:
            raise Refusal(404, "there is nothing here")

    def _is_upload(self, path: str) -> bool:
        return "\0" not in path and os.path.realpath(path).startswith(self._uploads + os.sep)


def given_token(scope: Any) -> str | None:
    """The token in the address `/?token=TOKEN`."""
    if scope["path"] != "/" or scope["method"] != "GET":
        return None
    return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("token", [])), None)


async def enter(token: str, send: Any) -> None:
    """Keeps the token in a cookie and shows the page, so that it does not stay in the address."""
    cookie: SimpleCookie = SimpleCookie({COOKIE: token})
    for name, value in (("httponly", True), ("samesite", "Strict"), ("path", "/")):
        cookie[COOKIE][name] = value
    headers = [(b"location", b"/"), (b"set-cookie", cookie[COOKIE].OutputString().encode())]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def limit_of(path: str) -> int:
    """The most bytes that a request may send to an address."""
    if path.startswith(API):
        return BODY_BYTES
    return UPLOAD_BYTES + PAGE_BYTES if path == "/gradio_api/upload" else PAGE_BYTES


def limited(receive: Any, most: int, headers: dict[str, str]) -> Any:
    """`receive` that refuses a body of more than `most` bytes, or one that does not arrive."""
    claimed = headers.get("content-length", "0")
    if claimed.isdecimal() and int(claimed) > most:
        raise Refusal(413, f"got {int(claimed):,} bytes, expected {most:,} at most")
    got, whole, until = 0, False, asyncio.get_running_loop().time() + BODY_SECONDS

    async def receive_some() -> Any:
        nonlocal got, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise Refusal(408, f"the request did not arrive within {BODY_SECONDS:g} s") from None
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > most:
                raise Refusal(413, f"got more than {most:,} bytes")
        return message

    return receive_some


async def say(send: Any, status: int, line: str) -> None:
    """Sends an error: {"error": one line}."""
    body = json.dumps({"error": " ".join(line.split())}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", b"1")] * (status == 503) + [(b"connection", b"close")] * (status in (408, 413))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
