"""Targets: small good files of every kind that the library reads, and the call that reads them."""

from __future__ import annotations

import functools
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.inputs import PICKLE, broken

SPLITS = ("train", "train", "train", "train", "val", "test")
PICTURES = ("p0.png", "p1.jpg", "p2.gif", "p3.webp", "p4.png", "p5.jpg")


@dataclass(frozen=True)
class Target:
    """`make` writes files into a folder, one of them is broken, and `call` reads the folder.

    `kept` are patterns of files that are never broken. `links` says whether the folder has links that lead out. It is
    False for data sets whose links are followed, since their owners lay out large sets with links.
    """

    name: str
    make: Callable[[Path], None]
    call: Callable[[Path], object]
    kept: tuple[str, ...] = ()
    links: bool = True

    def write(self, here: Path, outside: Path) -> None:
        """Writes the good files, and files that must never be read or run."""
        for folder in (here, outside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        picture(outside / "secret.png", 0)
        self.make(here)
        if self.links:
            (here / "link.png").symlink_to("../outside/secret.png")
            (here / "linked").symlink_to("../outside")
        (here / "pickle").write_bytes(PICKLE)

    def files(self, here: Path) -> list[Path]:
        traps = {here / name for name in ("link.png", "linked", "pickle")}
        kept = {path for pattern in self.kept for path in here.glob(pattern)}
        return [path for path in sorted(here.rglob("*")) if path.is_file() and path not in traps | kept]

    def changes(self, here: Path):
        """Strategy of (file, (how it was changed, its bytes))."""
        one_of_each = [
            st.tuples(st.just(str(path.relative_to(here))), broken(path.name, path.read_bytes()))
            for path in self.files(here)
        ]
        return st.one_of(one_of_each)

    def apply(self, here: Path, change) -> tuple[str, Callable[[], None]]:
        """Writes a change; returns a description of it and a function that reverts it."""
        name, (how, blob) = change
        path = here / name
        good = path.read_bytes()
        path.write_bytes(blob)
        return f"{name}, {how}: {blob[:200]!r}", lambda: path.write_bytes(good)

    def read(self, here: Path, change) -> None:
        self.call(here)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


# Pictures and captions.


def write_image_folder(folder: Path) -> None:
    lines = []
    for i, (name, split) in enumerate(zip(PICTURES, SPLITS, strict=True)):
        picture(folder / name, i)
        texts = {"captions": [f"picture {i}", "a picture"]} if i % 2 else {"text": f"picture {i}"}
        lines.append({"file_name": name, "id": i, "split": split, "label": f"class {i % 2}", **texts})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def read_image_folder(folder: Path) -> None:
    from vacsr_jax.data import image_folder

    try:
        found = image_folder.read_image_folder(folder)
    except ValueError:
        image_folder.read_image_folder(folder, on_error="skip")
        raise
    for i in range(len(found)):
        found.image(i)


def write_tables(folder: Path) -> None:
    """Metadata as CSV and as Parquet, and a text beside each picture, in a folder each."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"file_name": name, "text": f"picture {i}", "label": i % 2} for i, name in enumerate(PICTURES)]
    for form in ("csv", "parquet", "beside"):
        for i, name in enumerate(PICTURES):
            picture(folder / form / name, i)
            if form == "beside":
                (folder / form / name).with_suffix(".txt").write_text(f"picture {i}")
    lines = [",".join(map(str, row.values())) for row in rows]
    (folder / "csv" / "metadata.csv").write_text("\n".join([",".join(rows[0]), *lines]))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "parquet" / "metadata.parquet")


def read_tables(folder: Path) -> None:
    for form in ("csv", "parquet", "beside"):
        read_image_folder(folder / form)


def write_shards(folder: Path) -> None:
    from vacsr_jax.data.webdataset import read_webdataset

    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i, name in enumerate(PICTURES[:3]):
                picture(folder / name, i)
                tar.add(folder / name, f"{i}{Path(name).suffix}")
                (folder / name).write_text(json.dumps({"caption": f"picture {i}"}) if i else f"picture {i}")
                tar.add(folder / name, f"{i}.{'json' if i else 'txt'}")
                (folder / name).unlink()
    read_webdataset(str(folder))  # writes the indexes, which are then broken too


def read_shards(folder: Path) -> None:
    from vacsr_jax.data.webdataset import read_webdataset

    try:
        found = read_webdataset(str(folder), verify=True)
    except ValueError:
        read_webdataset(str(folder), on_error="skip", verify=True)
        raise
    for i in range(len(found)):
        found.image(i)


def write_karpathy(folder: Path) -> None:
    images = []
    for i, (name, split) in enumerate(zip(PICTURES, SPLITS, strict=True)):
        picture(folder / "train2014" / name, i)
        sentences = [{"raw": f"picture {i}, {k}", "sentid": 10 * i + k, "imgid": i} for k in range(2)]
        images.append({"filepath": "train2014", "filename": name, "cocoid": 100 + i, "split": split})
        images[-1] |= {"sentences": sentences, "sentids": [s["sentid"] for s in sentences]}
    (folder / "dataset_own.json").write_text(json.dumps({"dataset": "own", "images": images}))


def write_annotations(folder: Path) -> None:
    write_karpathy(folder)
    entries = json.loads((folder / "dataset_own.json").read_text())["images"]
    (folder / "dataset_own.json").unlink()
    picture(folder / "val2014" / "v.png", 9)
    entries.append({"filepath": "val2014", "filename": "v.png", "cocoid": 1, "split": "restval"})
    entries[-1]["sentences"] = [{"raw": "a val picture", "sentid": 99}]
    for year in ("train2014", "val2014"):
        mine = [e for e in entries if e["filepath"] == year]
        captions = [
            {"id": s["sentid"], "image_id": e["cocoid"], "caption": s["raw"]} for e in mine for s in e["sentences"]
        ]
        content = {"annotations": captions, "images": [{"id": e["cocoid"], "file_name": e["filename"]} for e in mine]}
        (folder / f"captions_{year}.json").write_text(json.dumps(content))
    for split, name in {"train": "train", "restval": "restval", "val": "dev", "test": "test"}.items():
        ids = [s["sentid"] for e in entries if e["split"] == split for s in e["sentences"]]
        np.save(folder / f"coco_{name}_ids.npy", np.array(ids, np.int64))


def read_captions(form: str, folder: Path) -> None:
    from vacsr_jax.data.captions.open import open_captions

    for split in (None, "train", "test"):
        source = open_captions(folder, split, form=form)
        for i in range(len(source)):
            source.image(i)


# Classes.


def write_classes(folder: Path) -> None:
    for split in ("train", "val", "test"):
        for key in ("n01", "n02"):
            picture(folder / "DATA" / "own" / split / key / f"{split}{key}.png", len(key))
    (folder / "DATA" / "own" / "classnames.txt").write_text("n01 first class\nn02 second class\n")
    write_image_folder(folder / "DATA" / "labelled")
    rows = {s: [[f"{s}/{k}.png", k, f"class {k}"] for k in range(2)] for s in ("train", "val", "test")}
    (folder / "split_zhou_Own.json").write_text(json.dumps(rows))


def read_classes(folder: Path) -> None:
    from vacsr_jax.data.classification.source import load_benchmark, open_classes
    from vacsr_jax.main import main

    load_benchmark.cache_clear()
    main(["data", "shots", f"--manifest={folder / 'split_zhou_Own.json'}", f"--out={folder / 'out' / 'shots.json'}"])
    for name in ("own", "labelled"):
        for split in ("train", "test_new"):
            source = open_classes(name, str(folder / "DATA"), split, shots=1)
            for i in range(len(source)):
                source.image(i)


# Embeddings and statistics.


def write_embeddings(folder: Path) -> None:
    from vacsr_jax.main import main

    draw = np.random.default_rng(0)
    bank = {"ids": np.array([f"d{i}" for i in range(6)]), "modality": np.array(["image", "text"] * 3)}
    queries = {"ids": np.array(["q0", "q1", "q2"]), "modality": np.array(["text"] * 3)}
    queries |= {"answers": np.array(["d0", "d1 d2", "d3"]), "exclude": np.array(["", "d5", "d4 d2"])}
    for name, arrays in (("bank", bank), ("queries", queries)):
        vectors = draw.normal(size=(len(arrays["ids"]), 4)).astype(np.float32)
        np.savez(folder / f"{name}.npz", embeddings=vectors, **arrays)
    main(["standardize", "fit", *two_files(folder), f"--out={folder / 'stats.json'}"])


def two_files(folder: Path) -> list[str]:
    return [f"--queries={folder / 'queries.npz'}", f"--documents={folder / 'bank.npz'}"]


def read_standardized(folder: Path) -> None:
    from vacsr_jax.main import main

    options = [f"--stats={folder / 'stats.json'}", "--k=2", f"--out={folder / 'out' / 'found.json'}"]
    main(["standardize", "apply", *two_files(folder), *options])
    main(["standardize", "compare", *two_files(folder), "--k=1"])


def write_index(folder: Path) -> None:
    from vacsr_jax.main import main

    write_embeddings(folder)
    (folder / "stats.json").unlink()
    main(["index", f"--documents={folder / 'bank.npz'}", f"--out={folder / 'index'}"])


def read_index(folder: Path) -> None:
    from vacsr_jax.main import main

    page = f"--html={folder / 'out' / 'page.html'}"
    main(["search", f"--index={folder / 'index'}", f"--queries={folder / 'queries.npz'}", "--k=2", page])


def write_scores(folder: Path) -> None:
    captions = np.arange(25)
    i2t = {str(i): [int(c) for c in captions if c // 5 == i] for i in range(5)}
    for name in ("original", "cxc", "eccv"):
        (folder / f"{name}_image_to_caption.json").write_text(json.dumps(i2t))
        (folder / f"{name}_caption_to_image.json").write_text(json.dumps({str(c): [int(c) // 5] for c in captions}))
    np.save(folder / "coco_test_ids.npy", captions)
    np.save(folder / "S.npy", np.random.default_rng(0).normal(size=(5, 25)).astype(np.float32))
    (folder / "i.txt").write_text("\n".join(map(str, range(5))))
    (folder / "c.json").write_text(json.dumps(captions.tolist()))


def read_scores(folder: Path) -> None:
    from vacsr_jax.main import main

    files = {"similarity": "S.npy", "image_ids": "i.txt", "caption_ids": "c.json", "ground_truth": "."}
    options = [f"--{name}={folder / file}" for name, file in files.items()]
    main(["score", *options, f"--out={folder / 'out' / 'scores.json'}"])


FILE_TARGETS = (
    Target("image folder", write_image_folder, read_image_folder),
    Target("tables", write_tables, read_tables),
    Target("shards", write_shards, read_shards),
    Target("Karpathy", write_karpathy, functools.partial(read_captions, "karpathy"), links=False),
    Target(
        "COCO annotations",
        write_annotations,
        functools.partial(read_captions, "annotations"),
        ("*2014/*",),
        links=False,
    ),
    Target("classes", write_classes, read_classes, links=False),
    Target("embeddings, statistics", write_embeddings, read_standardized),
    Target("index", write_index, read_index, ("*.npz",)),
    Target("scores, ground truth", write_scores, read_scores),
)
