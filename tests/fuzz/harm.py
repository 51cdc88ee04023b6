"""Single cases of files made to fill the memory, to hang, to lead out of their folder, or to be executed."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import models
from tests.fuzz import targets as files
from tests.fuzz.inputs import DEPTH, PICKLE, png
from tests.small_models import untrained

TOUCH = "from pathlib import Path\nPath('executed').touch()\n"


def deflated(size: int) -> bytes:
    """Makes a zip file of an npy that unpacks to `size` bytes of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file, file.open("embeddings.npy", "w") as member:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size // 16}, 4), }}\n".encode()
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(size >> 20):
            member.write(bytes(2**20))
    return buffer.getvalue()


def claiming(size: int) -> bytes:
    """Makes a zip file whose directory claims that its member unpacks to `size` bytes."""
    blob, small = deflated(2**20), struct.pack("<I", 2**20 + 75)
    return blob.replace(small, struct.pack("<I", min(size, 2**32 - 1)))


def edited(make: Callable[[Path], None], name: str, content, read: Callable[[Path], object]):
    """A case: good files, one of them with this content (bytes, or a function of the good file's JSON)."""

    def run(folder: Path) -> None:
        make(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            content if isinstance(content, bytes) else json.dumps(content(json.loads(path.read_text()))).encode()
        )
        read(folder)

    return run


def only_pickled(folder: Path) -> None:
    models.write_clip(folder)
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)
    models.read_model(folder)


def with_code(make: Callable[[Path], None], read: Callable[[Path], object], name: str, **fields):
    """A case: a folder whose Python files would leave a trace, with a JSON file that asks for them."""

    def run(folder: Path) -> None:
        make(folder)
        for code in (
            "config.py",
            "configs.py",
            "tokenization_evil.py",
            "modeling_evil.py",
            "sitecustomize.py",
            "__init__.py",
        ):
            (folder / code).write_text(TOUCH)
        if name:
            path = folder / name
            path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        os.chdir(folder)
        read(folder)

    return run


def pipe(make, read, name: str):
    def run(folder: Path) -> None:
        make(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        read(folder)

    return run


def embed_pipe(folder: Path) -> None:
    from vacsr_jax.cli.embed import pictures_of

    os.mkfifo(folder / "p.png")
    pictures_of(folder)


def strip(folder: Path) -> None:
    """A picture one pixel high and a million wide."""
    from PIL import Image

    from vacsr_jax.data.preprocess import preprocess

    preprocess(Image.new("RGB", (1_000_000, 1)), image_size=224)


def layers(values: dict) -> dict:
    values["text_config"]["num_hidden_layers"] = 10**9
    return values


def export_layers(values: dict) -> dict:
    values["vacsr_jax"]["clip"]["text"]["layers"] = 10**9
    return values


def padded(values: dict) -> dict:
    long = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    return values | {"padding": {**long, "pad_type_id": 0, "pad_token": "<|pad|>"}}


DEEP, LONG_HEADER = b"[" * DEPTH, struct.pack("<Q", 2**60) + b"{}"
HUGE, EPS = png(50_000, 50_000), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
TABLE = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (274877906944,), }   \n"
folder, karpathy = (
    (files.write_image_folder, files.read_image_folder),
    (files.write_karpathy, files.FILE_TARGETS[1].call),
)
classes = files.write_classes, files.read_classes
clip, export = (models.write_clip, models.read_model), (models.write_export, models.read_model)
workdir, index = (models.write_workdir, models.read_model), (files.write_index, files.read_index)
vectors, scores = (files.write_embeddings, files.read_standardized), (files.write_scores, files.read_scores)


def case(what, name: str, content):
    return edited(what[0], name, content, what[1])


CASES: dict[str, Callable[[Path], object]] = {
    "a PNG of 50,000 x 50,000 in an image folder": case(folder, "p0.png", HUGE),
    "the same, in a caption data set": case(karpathy, "train2014/p0.png", HUGE),
    "the same, in a folder of classes": case(classes, "DATA/own/train/n01/trainn01.png", HUGE),
    "PostScript called p0.png": case(folder, "p0.png", EPS),
    "a named pipe for a picture": pipe(*folder, "p0.png"),
    "a named pipe in a folder to embed": embed_pipe,
    "a picture of 1 x 1,000,000": strip,
    "an npz that unpacks to 1 GiB": lambda here: case(vectors, "bank.npz", deflated(2**30))(here),
    "an npz that says it unpacks to 4 GiB": lambda here: case(vectors, "bank.npz", claiming(2**32))(here),
    "an npy of a terabyte, without it": case(scores, "coco_test_ids.npy", TABLE),
    "a pickle called bank.npz": case(vectors, "bank.npz", PICKLE),
    "100,000 brackets: metadata.jsonl": case(folder, "metadata.jsonl", DEEP),
    "100,000 brackets: dataset_own.json": case(karpathy, "dataset_own.json", DEEP),
    "100,000 brackets: stats.json": case(vectors, "stats.json", DEEP),
    "100,000 brackets: index.json": case(index, "index/index.json", DEEP),
    "100,000 brackets: documents.jsonl": case(index, "index/documents.jsonl", DEEP),
    "100,000 brackets: a CLIP's config.json": case(clip, "config.json", DEEP),
    "100,000 brackets: an export's config.json": case(export, "config.json", DEEP),
    "100,000 brackets: tokenizer_config.json": case(clip, "tokenizer_config.json", DEEP),
    "a safetensors header of 2^60 bytes: CLIP": case(clip, "model-0.safetensors", LONG_HEADER),
    "a safetensors header of 2^60 bytes: export": case(export, "model.safetensors", LONG_HEADER),
    "a safetensors header of 2^60 bytes: index": case(index, "index/vectors-0-0.safetensors", LONG_HEADER),
    "a CLIP of a billion layers": case(clip, "config.json", layers),
    "an export of a billion layers": case(export, "config.json", export_layers),
    "a tokenizer that pads to a billion tokens": case(export, "tokenizer/tokenizer.json", padded),
    "weights in pytorch_model.bin": only_pickled,
    "an index of weights that names a pickle": case(
        clip, "model.safetensors.index.json", lambda x: {"weight_map": dict.fromkeys(x["weight_map"], "pickle")}
    ),
    "an index of weights that climbs": case(
        clip,
        "model.safetensors.index.json",
        lambda x: {"weight_map": dict.fromkeys(x["weight_map"], "../outside/x.safetensors")},
    ),
    "a CLIP with code for its tokenizer": with_code(
        *clip, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil"] * 2},
        tokenizer_class="Evil",
    ),
    "a CLIP with code for its model": with_code(*clip, "config.json", auto_map={"AutoModel": "modeling_evil.Evil"}),
    "an export beside code": with_code(*export, ""),
    "a workdir beside code": with_code(*workdir, ""),
}  # fmt: skip


@dataclass(frozen=True)
class Cases:
    """The target of the cases above, each once."""

    name: str

    def write(self, here: Path, outside: Path) -> None:
        untrained()  # import and compile before the first case
        files.Target(self.name, lambda _: None, lambda _: None).write(here, outside)

    def changes(self, here: Path):
        return st.sampled_from(list(CASES))

    def apply(self, here: Path, change) -> tuple[str, Callable[[], None]]:
        self.write(here, here.parent / "outside")
        return change, lambda: None

    def read(self, here: Path, change) -> None:
        CASES[change](here)
