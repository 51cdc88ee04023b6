"""`vacsr embed`: embeddings of a folder's pictures and a file's lines."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.config_files import load_config

if TYPE_CHECKING:
    from vacsr_jax.data.embedding_parts import Job
    from vacsr_jax.pretrained import Pretrained

EXAMPLE = """example:
  vacsr embed --model=runs/scenes --images=my_pictures --texts=captions.txt --out=embeddings.npz
  vacsr embed --model=openai/clip-vit-base-patch32 --images=a_million_pictures --out=embedded
  vacsr embed --model=openai/clip-vit-base-patch32 --images=a_million_pictures --out=embedded --shard=3/8
  vacsr embed --model=runs/scenes --pairs --config=configs/scenes.py --out=pairs.npz

Writes embeddings float32 [n, d], ids [n] (a picture's path in the folder; file:line of a text), modality [n] (image or
text) and model_id, which tells models apart.

A name that ends in .npz is one file. Any other is a folder, to which parts of --part_size items are written as they are
done: memory does not grow with the number of pictures, and after a kill the same command goes on with the first part
that is not there. Such a folder is read wherever embeddings are (--documents, --queries).

Hidden files and folders (.ipynb_checkpoints, __MACOSX, Thumbs.db, ...) and files that are no pictures are left out and
counted; links to folders are followed. A picture that cannot be read stops the command, and the finished parts stay
(of an npz file beside it, in NAME.npz.parts); --on_error=skip leaves such pictures out and counts them.

--shard=I/N, I from 0, embeds every N-th part. Run one process for each I, anywhere, with the same --out; together they
write the files of one run without --shard. A folder takes one model and one set of inputs: the pictures' names and
sizes, and the texts.

--pairs embeds all splits of a config's data, for `vacsr train --config=configs/embeddings.py:path=pairs.npz`."""

PART_SIZE = 4096


def register(verbs: Verbs) -> None:
    parser = verbs.add("embed", run, "Embed pictures and texts.", EXAMPLE, takes_config=True)
    parser.add_argument(
        "--model", help="a workdir, an export, a name of `vacsr models`, or a CLIP, SigLIP or OpenCLIP", required=True
    )
    parser.add_argument("--images", help="folder of pictures, searched with its subfolders")
    parser.add_argument("--texts", help="text file, one text a line")
    parser.add_argument("--pairs", action="store_true", help="embed the pictures and captions of --config")
    parser.add_argument("--config", metavar="FILE[:ARGS]", help="a config that names the data, for --pairs")
    parser.add_argument("--out", help="folder, or npz file, to write", required=True)
    parser.add_argument("--shard", metavar="I/N", help="embed only every N-th part, from the I-th, counted from 0")
    parser.add_argument("--part_size", type=int, default=PART_SIZE, help=f"items of a part (default: {PART_SIZE})")
    parser.add_argument("--draft", action="store_true", help="decode large JPEGs at a reduced size: faster, less exact")
    parser.add_argument(
        "--on_error", choices=("raise", "skip"), default="raise", help="skip leaves out pictures that cannot be read"
    )


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.pretrained import load
    from vacsr_jax.scoring.data_pairs import write_pairs

    out, shard = Path(options.out), read_shard(options.shard)
    if bool(options.config) != options.pairs or (overrides and not options.pairs):
        options.parser.error("--pairs and --config belong together: --pairs --config=FILE")
    if options.pairs:
        if options.images or options.texts or options.shard:
            raise ValueError("--pairs: the config names the data; leave --images, --texts and --shard out")
        config = load_config(options.config, overrides)
        print(f"{out}: {write_pairs(load(options.model), config, out)} pairs")
        return
    one_file = out.suffix == ".npz"
    if one_file and options.shard:
        raise ValueError(f"--shard: shards share a folder, {out} is one file; give --out=FOLDER")
    inputs = find_inputs(options.images, options.texts)
    model = load(options.model)
    job = inputs.job(model.fingerprint(), part_size=options.part_size, draft=options.draft)
    if one_file:
        n = write_file(out, model, inputs, job, options.on_error)
    else:
        n = write_folder(out, model, inputs, job, shard, options.on_error)
    print(f"{out}: {n} embeddings")


class Inputs(NamedTuple):
    """What is embedded: pictures by their paths in a folder, and texts with their lines' numbers in a file.

    `hash` is one of the pictures' names and sizes, and of the texts.
    """

    folder: str
    pictures: list[str]
    texts_name: str
    texts: list[str]
    lines: Sequence[int]
    hash: str

    def text_id(self, row: int) -> str:
        return f"{self.texts_name}:{self.lines[row]}"

    def picture_file(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def job(self, model_id: str, *, part_size: int = PART_SIZE, draft: bool = False) -> Job:
        from vacsr_jax.data.embedding_parts import Job

        return Job(model_id, self.hash, len(self.pictures), len(self.texts), part_size, draft)


class Part(NamedTuple):
    """A part's vectors float32 [n, d], ids, modality (image or text) and contents (files or texts)."""

    number: int
    vectors: np.ndarray
    ids: list[str]
    modality: str
    contents: list[str]


def find_inputs(images: str | None, texts: str | None) -> Inputs:
    """A folder's pictures and a file's lines.

    Raises:
      ValueError: if there is nothing to embed, or a line is empty (its number is named).
    """
    if not images and not texts:
        raise ValueError("nothing to embed; give --images=FOLDER, --texts=FILE, or both")
    pictures = pictures_of(Path(images)) if images else {}
    lines = read_lines(Path(texts)) if texts else []
    digest = hashlib.sha256()
    for name, size in pictures.items():
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    for line in lines:
        digest.update(f"{line}\n".encode())
    texts_name, numbers = Path(texts).name if texts else "", range(1, len(lines) + 1)
    return Inputs(images or "", list(pictures), texts_name, lines, numbers, digest.hexdigest()[:16])


def embed_parts(
    model: Pretrained, inputs: Inputs, job: Job, numbers: Sequence[int], on_error: str = "raise"
) -> Iterator[Part]:
    """Embeds these parts of a job, in order; the next pictures are decoded meanwhile.

    Raises:
      ValueError: if a picture cannot be read. With `on_error="skip"` it is left out instead, and counted in a warning.
    """
    from vacsr_jax.data.embedding_parts import IMAGE
    from vacsr_jax.data.tokenizer import report_cut

    parts = [(number, *job.part(number)) for number in numbers]
    report_cut(model.tokenizer, [inputs.texts[i] for _, kind, rows in parts if kind != IMAGE for i in rows], "texts")
    names = [inputs.pictures[i] for _, kind, rows in parts if kind == IMAGE for i in rows]
    skipped: dict[int, str] | None = {} if on_error == "skip" else None
    files = [inputs.picture_file(name) for name in names]
    found = model.encode_image_parts(files, job.part_size, draft=job.draft, skipped=skipped) if files else iter(())
    start = 0  # of the part's pictures in files: all parts but the last are full
    for number, kind, rows in parts:
        if kind == IMAGE:
            items, kept = next(found), [i for i in range(start, start + len(rows)) if i not in (skipped or ())]
            vectors = np.zeros((0, 0), np.float32) if items is None else model.cosine_vectors(items)
            ids, contents = [names[i] for i in kept], [os.path.realpath(files[i]) for i in kept]
            start += len(rows)
        else:
            contents = [inputs.texts[i] for i in rows]
            ids = [inputs.text_id(i) for i in rows]
            vectors = model.cosine_vectors(model.encode_texts(model.tokenizer(contents)))
        yield Part(number, vectors, ids, kind, contents)
    if skipped:
        counted = "1 picture was" if len(skipped) == 1 else f"{len(skipped):,} pictures were"
        warnings.warn(f"{counted} left out; the first: {next(iter(skipped.values()))}", stacklevel=2)


@contextlib.contextmanager
def kept_parts(out: Path, model: Pretrained, inputs: Inputs, job: Job, on_error: str) -> Iterator[Iterator[Part]]:
    """All parts of a job, which are kept in OUT.parts until the block has made OUT of them.

    If it fails, or a picture cannot be read, the same command goes on with the parts that are there. A job of one part
    has nothing to keep.
    """
    from vacsr_jax.data import embedding_parts
    from vacsr_jax.data.given import UnreadablePictureError

    if len(job) == 1:
        try:
            yield embed_parts(model, inputs, job, [0], on_error)
        except UnreadablePictureError as error:
            raise ValueError(f"{error}, or give --on_error=skip to leave out what cannot be read") from error
        return
    folder = out.with_name(f"{out.name}.parts")
    if (folder / embedding_parts.MANIFEST).is_file() and embedding_parts.read_manifest(folder) != job:
        shutil.rmtree(folder)  # of a command with other inputs
    write_folder(folder, model, inputs, job, (0, 1), on_error)
    yield read_back(folder, inputs)
    shutil.rmtree(folder)


def read_back(folder: Path, inputs: Inputs) -> Iterator[Part]:
    """The parts that `write_folder` wrote, with their contents."""
    from vacsr_jax.data import embedding_parts

    texts = {inputs.text_id(row): text for row, text in enumerate(inputs.texts)}
    for number, (_, arrays) in enumerate(embedding_parts.read_parts(folder)):
        ids, kind = arrays["ids"].tolist(), str(arrays["modality"][0])
        pictures = kind == embedding_parts.IMAGE
        contents = [os.path.realpath(inputs.picture_file(x)) if pictures else texts[x] for x in ids]
        yield Part(number, arrays["embeddings"], ids, kind, contents)


def write_file(path: Path, model: Pretrained, inputs: Inputs, job: Job, on_error: str) -> int:
    """Embeds all parts into one npz; returns the number of embeddings."""
    with kept_parts(path, model, inputs, job, on_error) as found:
        return write_npz(path, [part for part in found if part.ids], inputs, job)


def write_npz(path: Path, parts: list[Part], inputs: Inputs, job: Job) -> int:
    """Writes the parts into one npz; returns the number of embeddings."""
    from vacsr_jax.data.embeddings import write_embeddings

    if not parts:
        raise ValueError(f"--images: no picture of {inputs.folder} could be read")
    write_embeddings(
        path,
        embeddings=np.concatenate([part.vectors for part in parts]),
        ids=np.array([x for part in parts for x in part.ids]),
        modality=np.array([part.modality for part in parts for _ in part.ids]),
        model_id=np.array(job.model),
    )
    return sum(len(part.ids) for part in parts)


def write_folder(
    folder: Path, model: Pretrained, inputs: Inputs, job: Job, shard: tuple[int, int], on_error: str
) -> int:
    """Embeds the parts of a shard that the folder lacks, each written when it is done; returns the new embeddings.

    Raises:
      ValueError: if the folder is another job's, or a picture cannot be read; finished parts stay.
    """
    from vacsr_jax.data import embedding_parts

    embedding_parts.open_folder(folder, job)
    numbers = job.shard(*shard)
    done = embedding_parts.finished(folder, job, numbers)
    if done:
        print(f"{folder}: {len(done)} of {len(numbers)} parts are there already")
    n = 0
    try:
        for part in embed_parts(model, inputs, job, sorted(set(numbers) - set(done)), on_error):
            embedding_parts.write_part(folder, part.number, job, part.vectors, part.ids)
            n += len(part.ids)
    except ValueError as error:
        raise ValueError(
            f"{error}. The finished parts stay in {folder}; the same command with --on_error=skip goes on without "
            "pictures that cannot be read"
        ) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the finished parts stay in {folder}; the same command goes on") from None
    return n


def read_shard(text: str | None) -> tuple[int, int]:
    """I and N of "I/N"; (0, 1) for None."""
    index, slash, count = (text or "0/1").partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard: got {text!r}, expected I/N with I from 0 to N - 1, such as 0/8")
    return int(index), int(count)


def pictures_of(folder: Path) -> dict[str, int]:
    """The pictures of a folder and its subfolders, sorted: path in the folder -> bytes. Logs what was left out.

    Raises:
      ValueError: if there is none.
    """
    from vacsr_jax.data.picture_files import FORMAT_OF, describe_left_out, find_pictures, report_left_out

    if not folder.is_dir():
        raise ValueError(f"--images: {folder} is not a folder")
    found, left_out = find_pictures(folder)
    if not found:
        instead = f", only {describe_left_out(left_out)}" if left_out else ""
        raise ValueError(f"--images: {folder} holds no picture ({', '.join(FORMAT_OF)}){instead}")
    report_left_out(folder, left_out)
    return found


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
