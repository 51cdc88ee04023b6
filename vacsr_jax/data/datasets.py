"""Opens the source that a config names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ml_collections import ConfigDict

from vacsr_jax.data.caption_table import read_caption_table
from vacsr_jax.data.captions.open import open_captions
from vacsr_jax.data.classification.source import ClassSource, has_split, open_classes
from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.data.hub_dataset import read_hub_dataset
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.scene_web import make_web
from vacsr_jax.data.scenes import make_scenes
from vacsr_jax.data.source import Source, concatenate
from vacsr_jax.data.webdataset import read_webdataset, split_outside_braces

# People's own pictures with captions: name of the form -> an example of `data.path`.
OWN = {
    "image_folder": "my_pictures",
    "webdataset": "shards/{000..099}.tar",
    "csv": "pairs.csv",
    "datasets": "user/name",
}
SOURCES = ("scenes", "scene_web", *OWN, "captions", "embeddings", "classification")


def open_split(config: ConfigDict, split: str | None) -> Source:
    """Opens a split of the config's data: train, validation, test, another split of the data set, or None for all.

    Raises:
      ValueError: for an unknown source or split, or unreadable data.
    """
    data = config.data
    if data.name == "scene_web" and split in ("train", "validation"):
        return make_web(split, data[f"{split}_size"], seed=config.seed)
    if data.name in ("scenes", "scene_web"):  # what the web teaches is tested on scenes
        if split is None:
            raise ValueError(
                f"{data.name} split: got 'all', expected one of train, validation, test; drawn pictures have no end"
            )
        size = data.get(f"{split}_size", data.test_size)
        how = {"held_out": data.held_out, "jitter": data.jitter, "absent": data.absent}
        return make_scenes(split, size, seed=config.seed, facts_per_caption=data.facts, **how)
    if data.name in OWN:
        return open_own(config, split)
    if data.name == "captions":
        if not data.path:
            raise ValueError("data.path is empty; name the folder of the data: --config=coco:path=COCO")
        source = open_captions(
            data.path, split, dataset=data.dataset, form=data.form, per_image=data.captions_per_image
        )
        return source.first(data.validation_size) if split == "validation" else source
    if data.name == "embeddings":
        if not data.path:
            raise ValueError("data.path is empty; name a file: --config=configs/embeddings.py:path=embeddings.npz")
        found = read_pairs(data.path).source(split)
        return found.first({"validation": data.validation_size, "test": data.test_size}.get(split or "", 0))
    if data.name == "classification":
        return open_class_split(config, split or "test_all")
    raise ValueError(f"data.name: got {data.name!r}, expected one of {', '.join(SOURCES)}")


def open_own(config: ConfigDict, split: str | None) -> Source:
    """Opens a split of people's own pictures with captions.

    Raises:
      ValueError: if they are not there, cannot be read, or have classes but no captions.
    """
    data = config.data
    if not data.path:
        raise ValueError(f"data.path is empty; say where the data is: --config={data.name}:path={OWN[data.name]}")
    common = {"split": split, "on_error": data.on_error, "caption_key": data.caption_key}
    source: Source
    if data.name == "webdataset":
        source = read_webdataset(data.path, verify=data.on_error == "skip", **common)
    elif data.name == "datasets":
        source = read_hub_dataset(data.path, verify=data.on_error == "skip", image_key=data.image_key, **common)
    elif data.name == "csv":
        source = read_caption_table(data.path, image_key=data.image_key, separator=data.separator, **common)
    else:
        folders = {Path(path).name: read_image_folder(path, **common) for path in data.path.split(",")}
        source = next(iter(folders.values())) if len(folders) == 1 else concatenate(folders)
    if not any(source.captions):
        raise ValueError(
            f"{data.path}: the pictures have classes but no captions; train on classes with "
            f"--config=base_to_novel:dataset={Path(data.path).name},root={Path(data.path).parent}"
        )
    return source


def absolute_paths(paths: str) -> str:
    """Makes the paths in a comma-separated text absolute where they exist; a name of the hub stays as it is.

    Of a pattern of shards (`shards/{000..099}.tar`), the folder above the pattern must exist.
    """
    parts = split_outside_braces(paths) if paths else []
    return ",".join(os.path.abspath(x) if Path(_without_pattern(x)).exists() else x for x in parts)


def missing_paths(config: ConfigDict) -> list[str]:
    """The absolute paths of `data.path` where nothing is; a relative one is a matter of the folder one is in."""
    paths = split_outside_braces(config.data.get("path", ""))
    return [path for path in paths if os.path.isabs(path) and not Path(_without_pattern(path)).exists()]


def _without_pattern(path: str) -> str:
    fixed = re.split(r"[{*?\[]", path, maxsplit=1)[0]
    return path if fixed == path else os.path.dirname(fixed) or "."


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
            "--config=base_to_novel:dataset=eurosat,root=DATA"
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
