"""The data with corrections applied, as new metadata; the data themselves stay as they are."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import replace_folder, write_text
from vacsr_jax.audit.judge import Labelled
from vacsr_jax.audit.lists import LABEL, write_csv
from vacsr_jax.data.embedding_pairs import EmbeddingSource
from vacsr_jax.data.embeddings import write_embeddings
from vacsr_jax.data.records import RecordSource
from vacsr_jax.data.source import caption_pairs

DROPPED, EXTRA = "dropped_labels.csv", "extra_positives.csv"
TEXT_FIELDS = ("captions", "caption", "text", "title")


def write_cleaned(folder: Path, data: Labelled, dropped: np.ndarray, added: np.ndarray, form: str) -> list[str]:
    """Writes the folder with what is right of the data, whole or not at all; returns the names of its files.

    `dropped` and `added` are pairs (image, caption) [k, 2] of the data. dropped_labels.csv and extra_positives.csv are
    what `data.dropped_labels` and `data.extra_positives` take. Beside them stand the metadata of the audited split:
    metadata.jsonl with the pictures (form image_folder), pairs.csv with absolute paths (csv), or pairs.npz
    (embeddings). A picture that keeps no caption is left out.
    """

    def write(temporary: Path) -> None:
        source = data.source
        texts = caption_pairs(source)[0]
        for name, pairs in ((DROPPED, dropped), (EXTRA, added)):
            write_csv(temporary / name, LABEL, ((i, source.ids[i], j, texts[j]) for i, j in pairs.tolist()))
        if isinstance(source, EmbeddingSource):
            write_pairs(temporary / "pairs.npz", source, *remaining(data, dropped, added))
        elif isinstance(source, RecordSource) and all(isinstance(file, Path) for file in source.files):
            own = captions_by_image(data, dropped, added)
            if form == "csv":
                write_table(temporary / "pairs.csv", source, own)
            elif form == "image_folder":
                write_folder(temporary, source, own)

    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(folder, write)
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def remaining(data: Labelled, dropped: np.ndarray, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that are left, and the added ones: images [k] and captions [k], sorted by image."""
    captions = np.setdiff1d(np.arange(len(data.image_of)), dropped[:, 1])
    images = np.concatenate([data.image_of[captions], added[:, 0]])
    captions = np.concatenate([captions, added[:, 1]])
    order = np.argsort(images, kind="stable")
    return images[order], captions[order]


def captions_by_image(data: Labelled, dropped: np.ndarray, added: np.ndarray) -> list[list[str]]:
    """The captions of each image."""
    texts = caption_pairs(data.source)[0]
    found: list[list[str]] = [[] for _ in range(len(data.source))]
    for image, caption in zip(*remaining(data, dropped, added), strict=True):
        found[int(image)].append(texts[int(caption)])
    return found


def write_folder(folder: Path, source: RecordSource, captions: list[list[str]]) -> None:
    """metadata.jsonl, and the pictures below pictures/, where a hard link (else a copy) of each must be."""
    lines = []
    for i, own in enumerate(captions):
        if not own:
            continue
        file = Path(source.files[i])  # type: ignore[arg-type]
        name = f"pictures/{i:07d}{file.suffix}"
        (folder / name).parent.mkdir(exist_ok=True)
        try:
            os.link(file.resolve(), folder / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, folder / name)
        kept = {k: v for k, v in source.records[i].items() if k not in TEXT_FIELDS and not k.endswith("file_name")}
        fields = {**kept, "file_name": name, "id": source.ids[i], "split": source.splits[i], "captions": own}
        lines.append(json.dumps(fields, ensure_ascii=False, default=str))
    write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")


def write_table(path: Path, source: RecordSource, captions: list[list[str]]) -> None:
    """A row for each pair: filepath, title, split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("filepath", "title", "split"))
    for i, own in enumerate(captions):
        file = Path(source.files[i]).resolve()  # type: ignore[arg-type]
        writer.writerows((file, caption, source.splits[i]) for caption in own)
    write_text(path, text.getvalue())


def write_pairs(path: Path, source: EmbeddingSource, images: np.ndarray, captions: np.ndarray) -> None:
    """An npz in which a text stands once for every image that it is paired with."""
    pairs = source.pairs
    kept, image_of = np.unique(images, return_inverse=True)
    rows = source.text_rows[captions]
    arrays: dict[str, Any] = {
        "image_embeddings": source.gather(kept),
        "text_embeddings": pairs.texts[rows],
        "image_of": image_of,
        "image_ids": np.array([source.ids[int(i)] for i in kept]),
        "split": pairs.splits()[source.rows[kept]],
        "image_model_id": np.array(pairs.image_model),
        "text_model_id": np.array(pairs.text_model),
    }
    if pairs.strings is not None:
        arrays["texts"] = np.array([str(pairs.strings[row]) for row in rows])
    write_embeddings(path, **arrays)
