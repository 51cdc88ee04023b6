"""Opens the source that a config names."""

from __future__ import annotations

import functools
from pathlib import Path

from ml_collections import ConfigDict

from vacsr_jax.data.captions.open import open_captions
from vacsr_jax.data.classification.source import ClassSource, has_split, open_classes
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.scenes import JITTER, make_scenes
from vacsr_jax.data.source import Source, concatenate

SOURCES = ("scenes", "image_folder", "captions", "classification")


def open_split(config: ConfigDict, split: str | None) -> Source:
    """Opens a split of the config's data: train, validation, test, another split of the data set, or None for all.

    Raises:
      ValueError: for an unknown source or split, or unreadable data.
    """
    data = config.data
    if data.name == "scenes":
        size = data.get(f"{split}_size", data.test_size)
        drawn = {"facts_per_caption": data.facts, "held_out": data.held_out, "jitter": data.get("jitter", JITTER)}
        return make_scenes(split or "all", size, seed=config.seed, **drawn)
    if data.name == "image_folder":
        if not data.path:
            raise ValueError("data.path is empty; name a folder: --config=configs/image_folder.py:path=my_pictures")
        read = functools.partial(read_image_folder, split=split, on_error=data.on_error)
        folders = {Path(path).name: read(path) for path in data.path.split(",")}
        return next(iter(folders.values())) if len(folders) == 1 else concatenate(folders)
    if data.name == "captions":
        if not data.path:
            raise ValueError("data.path is empty; name the folder of the data: --config=configs/coco.py:path=COCO")
        source = open_captions(
            data.path, split, dataset=data.dataset, form=data.form, per_image=data.captions_per_image
        )
        return source.first(data.validation_size) if split == "validation" else source
    if data.name == "classification":
        return open_class_split(config, split or "test_all")
    raise ValueError(f"data.name: got {data.name!r}, expected one of {', '.join(SOURCES)}")


def open_validation(config: ConfigDict) -> Source | None:
    """Opens the validation split. Returns None for a data set of classes without one (ImageNet)."""
    data = config.data
    if data.name == "classification" and not has_split(data.dataset, data.path, "val", data.tfds):
        return None
    return open_split(config, "validation")


def open_class_split(config: ConfigDict, split: str) -> ClassSource:
    """Opens a split of the config's data set, or of another one as `dataset/split`; see `open_classes`."""
    data = config.data
    if not data.dataset or not data.path:
        raise ValueError(
            f"data.dataset {data.dataset!r}, data.path {data.path!r}: set the data set and the folder that holds it: "
            "--config=configs/base_to_novel.py:dataset=eurosat,root=DATA"
        )
    name, _, split = split.rpartition("/")
    return open_classes(
        name or data.dataset,
        data.path,
        split,
        subset=data.subset,
        shots=data.shots,
        seed=config.seed,
        tfds_dir=data.tfds,
    )
