"""Models for embeddings that come without one: trained in folds, so that no pair is judged by one trained on it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.audit.judge import Judge, Labelled
from vacsr_jax.data.embedding_pairs import EmbeddingPairs, EmbeddingSource
from vacsr_jax.pretrained import load_workdir
from vacsr_jax.training.loop import train
from vacsr_jax.training.run import Run, set_up_on_embeddings

ROWS = 1 << 15  # that are read at a time
VALIDATION = 0.2  # of the images that a fold is trained on: they choose its checkpoint and train nothing
TRAIN, HELD_OUT, JUDGED = "train", "validation", "judged"


def cross_fit(source: EmbeddingSource, config: ConfigDict, folds: int, workdirs: Path) -> list[Judge]:
    """Trains a model for each fold of the images on all others, and returns it as the judge of the fold's images.

    A judge has seen neither its images nor the captions that are labelled with them. It has seen the other captions,
    with other images. Finished runs in `workdirs` are kept, in a folder for these data, and are not repeated.

    Raises:
      ValueError: if there are fewer than four images for a fold, or the config does not fit the data.
    """
    n = len(source)
    if folds < 2:
        raise ValueError(f"--folds: got {folds}, expected 2 or more")
    if n < 4 * folds:
        fewer = f"give --folds={n // 4} or more images" if n >= 8 else "give 8 images or more, or a --model"
        raise ValueError(f"--folds: got {n} images, which are too few for {folds} folds of 4; {fewer}")
    fold = np.random.default_rng([config.seed, folds]).permutation(n) % folds
    data, judges = Labelled(source, source.text_image), []
    workdirs = workdirs / digest_of(source)
    for k in range(folds):
        pairs = split_for(source, fold == k, config.seed)
        parts = [pairs.source(name) for name in (TRAIN, HELD_OUT)]
        workdir = workdirs / f"fold{k}"
        print(f"fold {k + 1} of {folds}: {len(parts[0])} images to train on, {int((fold == k).sum())} to judge")
        train(config, workdir, prepare=prepare_on(*parts))
        judges.append(Judge(load_workdir(workdir, "best"), data, np.flatnonzero(fold == k)))
    return judges


def digest_of(source: EmbeddingSource) -> str:
    """12 digits that other vectors, labels or splits change."""
    pairs = source.pairs
    digest = hashlib.sha256(np.asarray(pairs.image_of, "<i8").tobytes())
    digest.update(np.asarray(source.rows, "<i8").tobytes())
    for vectors in (pairs.images, pairs.texts):
        for start in range(0, len(vectors), ROWS):
            digest.update(np.ascontiguousarray(vectors[start : start + ROWS]).tobytes())
    return digest.hexdigest()[:12]


def prepare_on(trained_on: EmbeddingSource, held_out: EmbeddingSource) -> Callable[[ConfigDict, Path], Run]:
    """How `train` sets up a run on these parts of the data."""
    return lambda config, workdir: set_up_on_embeddings(config, trained_on, held_out)


def split_for(source: EmbeddingSource, judged: np.ndarray, seed: int) -> EmbeddingPairs:
    """The file with a split of its own: the judged images, and the others as training and validation images."""
    others = np.random.default_rng([seed, len(judged)]).permutation(np.flatnonzero(~judged))
    held = others[: max(2, round(VALIDATION * len(others)))]
    split = np.full(len(source.pairs.images), JUDGED, "U10")
    split[source.rows[others]], split[source.rows[held]] = TRAIN, HELD_OUT
    return dataclasses.replace(source.pairs, split=split)


def leaking(source: EmbeddingSource, config: ConfigDict, workdir: Path) -> list[Judge]:
    """One model that is trained on all images and judges them too: what cross-fitting avoids, to measure its cost."""
    pairs = split_for(source, np.zeros(len(source), bool), config.seed)
    train_on, held_out = dataclasses.replace(pairs, split=np.full(len(pairs.images), TRAIN)), pairs.source(HELD_OUT)
    train(config, workdir, prepare=prepare_on(train_on.source(TRAIN), held_out))
    return [Judge(load_workdir(workdir, "best"), Labelled(source, source.text_image), np.arange(len(source)))]
