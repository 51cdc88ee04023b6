"""A small index of pictures and texts with a small model, and the application that serves it."""

import asyncio
import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small_models import untrained
from vacsr_jax.main import main

TEXTS = [
    "a red circle",
    "a blue square",
    "a red square",
    "{{value}} ${1+1} <img src=x onerror=alert(1)>",
    "two circles",
]


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A folder with a model, pictures, texts and their index."""
    folder = tmp_path_factory.mktemp("served")
    untrained().save(folder / "model")
    (folder / "pictures").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"p{i}.png")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    (folder / "secret.png").write_bytes((folder / "pictures" / "p0.png").read_bytes())
    made_of = [f"--images={folder / 'pictures'}", f"--texts={folder / 'texts.txt'}"]
    main(["index", f"--model={folder / 'model'}", *made_of, f"--out={folder / 'index'}"])
    return folder


@pytest.fixture(scope="session")
def engine(served):
    import vacsr_jax
    from vacsr_jax.search.index import MixedIndex
    from vacsr_jax.serve.answers import model_of
    from vacsr_jax.serve.engine import Engine

    index = MixedIndex.load(served / "index")
    engine = Engine(index, model_of(index, None), vacsr_jax.load(served / "model"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def app(engine, tmp_path_factory):
    """The whole application, without a port."""
    uploads = tmp_path_factory.mktemp("uploads")

    async def make():  # Gradio would open an event loop of its own, and leave it
        from vacsr_jax.serve.app import make_app

        return make_app(engine, uploads)

    return asyncio.run(make())


@pytest.fixture
def client(app):
    from starlette.testclient import TestClient

    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def base64_of(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "png")
    return buffer.getvalue()
