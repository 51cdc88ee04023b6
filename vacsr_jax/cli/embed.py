"""`vacsr embed`: embeddings of a folder's pictures and a file's lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vacsr_jax.cli.verbs import Verbs

if TYPE_CHECKING:
    from vacsr_jax.pretrained import Pretrained

EXAMPLE = """example:
  vacsr embed --model=runs/scenes --images=my_pictures --texts=captions.txt --out=embeddings.npz
  vacsr embed --model=openai/clip-vit-base-patch32 --images=my_pictures --out=embeddings.npz

Writes an npz with embeddings float32 [n, d], ids [n] (a picture's path in the folder; file:line of a text),
modality [n] (image or text) and model_id, which tells models apart."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CHUNK = 1024  # pictures decoded at once


def register(verbs: Verbs) -> None:
    parser = verbs.add("embed", run, "Embed pictures and texts.", EXAMPLE)
    parser.add_argument("--model", help="a workdir, an exported folder, or a Hugging Face CLIP", required=True)
    parser.add_argument("--images", help="folder of pictures, searched with its subfolders")
    parser.add_argument("--texts", help="text file, one text a line")
    parser.add_argument("--out", help="npz file to write", required=True)


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.data.embeddings import write_embeddings
    from vacsr_jax.pretrained import load

    model = load(options.model)
    embedded = embed_files(model, images=options.images, texts=options.texts)
    write_embeddings(
        options.out,
        embeddings=embedded.vectors,
        ids=np.array(embedded.ids),
        modality=np.array(embedded.modality),
        model_id=np.array(model.fingerprint()),
    )
    print(f"{options.out}: {len(embedded.ids)} embeddings")


class Embedded(NamedTuple):
    """Pictures and texts: vectors float32 [n, d], ids, modality (image or text), contents (file or text)."""

    vectors: np.ndarray
    ids: list[str]
    modality: list[str]
    contents: list[str]


def embed_files(model: Pretrained, *, images: str | None, texts: str | None) -> Embedded:
    """Embeds a folder's pictures and a file's lines. Ids are the pictures' paths in the folder, and file:line.

    Raises:
      ValueError: if there is nothing to embed, a picture cannot be read, or a line is empty (its number is named).
    """
    from tqdm import tqdm

    parts, ids, modality, contents = [], [], [], []
    if images:
        paths = find_pictures(Path(images))
        for start in tqdm(range(0, len(paths), CHUNK), unit=f" x {CHUNK} pictures", disable=None):
            parts.append(model.cosine_vectors(model.encode_images(paths[start : start + CHUNK])))
        ids += [path.relative_to(images).as_posix() for path in paths]
        modality += ["image"] * len(paths)
        contents += [str(path.resolve()) for path in paths]
    if texts:
        lines = read_lines(Path(texts))
        parts.append(model.cosine_vectors(model.encode_texts(lines)))
        ids += [f"{Path(texts).name}:{number}" for number in range(1, len(lines) + 1)]
        modality += ["text"] * len(lines)
        contents += lines
    if not parts:
        raise ValueError("nothing to embed; give --images=FOLDER, --texts=FILE, or both")
    return Embedded(np.concatenate(parts), ids, modality, contents)


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, sorted; ValueError if there is none."""
    if not folder.is_dir():
        raise ValueError(f"--images: {folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not paths:
        raise ValueError(f"--images: {folder} holds no picture ({', '.join(PICTURES)})")
    return paths


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file; ValueError if one of them is blank."""
    try:
        # Split at newlines only: str.splitlines would also cut a text at U+2028.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(f"{path}: line {empty[0]} is empty; give one text a line")
    return lines
