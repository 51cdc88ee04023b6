"""Corrections of a data set's labels in training: labels that are left out, and pairs that are added.

A file of corrections is a CSV with the columns image_index and caption_index, which count the images and captions of
the training split from 0 in the source's order (`data.source.caption_pairs`). Where it has the columns image_id or
caption, they must be those of the training split. The lists of `vacsr audit` are such files.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.data.loader import Pairs
from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.data.vectors import Vectors

COLUMNS = ("image_index", "caption_index")
NAMES = ("image_id", "caption")  # what they stand for


def corrected(config: ConfigDict, pairs: Pairs) -> Pairs:
    """The training pairs without `data.dropped_labels` and with `data.extra_positives`.

    An added pair is drawn like any other. Wherever its image and its caption meet in a batch, they are a positive.

    Raises:
      ValueError: naming the file and line, if a line is no pair of the data, a dropped label is none, or nothing is
        left.
    """
    dropped, extra = config.data.dropped_labels, config.data.extra_positives
    if not dropped and not extra:
        return pairs
    image_of, captions = pairs.image_index, np.arange(len(pairs))
    if dropped:
        found = read_corrections(dropped, pairs.source)
        wrong = np.flatnonzero(image_of[found[:, 1]] != found[:, 0])
        if len(wrong):
            image, caption = found[wrong[0]]
            raise ValueError(
                f"data.dropped_labels: {dropped}: caption {caption} is labelled with image {image_of[caption]}, not "
                f"{image}; its indices must count this training split"
            )
        captions = np.setdiff1d(captions, found[:, 1])
    images = image_of[captions]
    if extra:
        found = read_corrections(extra, pairs.source)
        found = found[image_of[found[:, 1]] != found[:, 0]]
        images, captions = np.concatenate([images, found[:, 0]]), np.concatenate([captions, found[:, 1]])
    if not len(captions):
        raise ValueError(f"data.dropped_labels: {dropped} leaves no label to train on")
    tokens = pairs.tokens.take(captions) if isinstance(pairs.tokens, Vectors) else pairs.tokens[captions]
    also = known_images(images, captions) if extra else None
    return dataclasses.replace(pairs, tokens=tokens, image_index=images, also=also)


def known_images(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Of each pair, all images that its caption has a pair with: int32 [p, k], filled up with -1."""
    order = np.argsort(captions, kind="stable")
    _, number, counts = np.unique(captions, return_inverse=True, return_counts=True)
    rows = np.full((len(counts), counts.max()), -1, np.int32)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(captions)) - np.repeat(starts, counts)
    rows[number[order], place] = images[order]
    return rows[number]


def read_corrections(path: str | Path, source: Source) -> np.ndarray:
    """The pairs of a file, int64 [k, 2], each once.

    Raises:
      ValueError: naming the line, if it is no pair of the source, or names another image or caption than the source.
    """
    found, texts = [], caption_pairs(source)[0]
    images, captions = len(source), len(texts)
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        for row in reader:
            try:
                image, caption = (int(row[name]) for name in COLUMNS)
            except (TypeError, ValueError):
                got = [row[name] for name in COLUMNS]
                raise ValueError(f"{path}: line {reader.line_num}: got {got}, expected two whole numbers") from None
            if not (0 <= image < images and 0 <= caption < captions):
                raise ValueError(
                    f"{path}: line {reader.line_num}: got image {image} and caption {caption}, expected 0 to "
                    f"{images - 1} and 0 to {captions - 1}; indices count the training split"
                )
            for column, known in zip(NAMES, (source.ids[image], texts[caption]), strict=True):
                if row.get(column, str(known)) != str(known):
                    raise ValueError(
                        f"{path}: line {reader.line_num}: {column}: got {row[column]!r}, but the training split has "
                        f"{str(known)!r} there; give a list of this data's training split (vacsr audit --split=train)"
                    )
            found.append((image, caption))
    return np.unique(np.array(found, np.int64).reshape(-1, 2), axis=0)
