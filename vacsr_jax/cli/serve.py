"""`vacsr serve`: a page to search an index with, and the same as an HTTP API."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from vacsr_jax.cli.verbs import Verbs

EXAMPLE = """example:
  vacsr serve --index=my_index
  vacsr serve --index=my_index --rerank=runs/scenes --port=8000
  vacsr serve --index=my_index --host=0.0.0.0 --token_file=token.txt

The page is at http://127.0.0.1:7860. It needs: pip install "vacsr_jax[serve]". The API is described in
vacsr_jax/serve/README.md:
  curl -H 'Content-Type: application/json' -d '{"text": "a cat on a sofa"}' http://127.0.0.1:7860/api/search

--rerank orders the results of the other modality by a trained model, and gives match probabilities and uncertainties.
Without --token_file only this machine can ask. Other machines need --host and a token; open
http://HOST:PORT/?token=TOKEN in a browser there."""

PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16


def register(verbs: Verbs) -> None:
    parser = verbs.add("serve", run, "Serve an index: a page to search with, and an HTTP API.", EXAMPLE)
    parser.add_argument("--index", help="folder that `vacsr index` wrote", required=True)
    parser.add_argument("--model", help="the model that embeds the query (default: the one that embedded the index)")
    parser.add_argument("--rerank", metavar="MODEL", help="a model that re-ranks, such as a trained workdir")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"0 takes any that is free (default: {PORT})")
    parser.add_argument("--token_file", metavar="FILE", help="file with a token that each request must bring")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    if find_spec("gradio") is None:
        raise ValueError('serve needs Gradio: pip install "vacsr_jax[serve]"')
    if not 0 <= options.port < 65536:
        raise ValueError(f"--port: got {options.port}, expected 0 to 65535")
    token = read_token(Path(options.token_file)) if options.token_file else None
    if token is None and options.host not in LOOPBACK:
        raise ValueError(f"--host: other machines can reach {options.host}; give --token_file too")
    from vacsr_jax.pretrained import load
    from vacsr_jax.search.index import MixedIndex
    from vacsr_jax.serve.answers import model_of
    from vacsr_jax.serve.engine import Engine

    check_free(options.host, options.port)
    began = time.monotonic()
    index = MixedIndex.load(options.index)
    engine = Engine(index, model_of(index, options.model), load(options.rerank) if options.rerank else None)
    with tempfile.TemporaryDirectory(prefix="vacsr_uploads_") as uploads:
        from vacsr_jax.serve.app import Server, make_app

        print("compiling, so that no request waits for it", file=sys.stderr)
        engine.warm()

        def opened(port: int) -> None:
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(f"ready after {time.monotonic() - began:.0f} s: http://{host}:{port}", flush=True)

        # uvicorn gives the signal on after it has finished: nothing is left to do then.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            Server(make_app(engine, Path(uploads), token), options.host, options.port, opened).run()
        finally:
            engine.close()
            for number, handler in before.items():
                signal.signal(number, handler)
    print("stopped; every request under way was answered", file=sys.stderr)


def check_free(host: str, port: int) -> None:
    """Raises ValueError if another program listens at a port: before models are compiled."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ValueError(f"--port: {host}:{port} cannot be opened ({error.strerror}); give another") from error


def read_token(path: Path) -> str:
    """The token in a file: one line without spaces."""
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or set(' ";,\\') & set(token):
        raise ValueError(
            f"{path}: expected a token of {SHORTEST_TOKEN} or more letters and digits; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    return token
