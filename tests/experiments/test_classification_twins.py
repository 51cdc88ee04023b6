"""The twins' folders: halves share their words, splits share no scene, and subgroups are large enough."""

import json

import numpy as np
from PIL import Image

from experiments.classification.runs import cell
from experiments.classification.twins import VENDORS, one_object, scene_classes, write_emoji, write_scenes
from vacsr_jax.data.classification.source import open_classes
from vacsr_jax.data.scenes import EMPTY, identity


def test_both_halves_of_the_scenes_show_every_colour_and_shape():
    classes = scene_classes()
    for half in (classes[:12], classes[12:]):
        colours, shapes = (set(values) for values in zip(*half, strict=True))
        assert (colours, shapes) == (set(range(6)), set(range(4)))
    assert len(set(classes)) == 24


def test_the_24_ways_are_24_scenes_of_one_object():
    layout = one_object(3, 2, np.arange(24))
    assert len(set(identity(layout).tolist())) == 24
    assert ((layout.shape != EMPTY).sum(axis=1) == 1).all()
    assert set(layout.colour[layout.colour != EMPTY].tolist()) == {3}


def test_scenes_are_read_back_with_base_first(tmp_path):
    write_scenes(tmp_path / "scenes", {"train": 2, "val": 1, "test": 1})
    base = open_classes("scenes", str(tmp_path), "test_base")
    new = open_classes("scenes", str(tmp_path), "test_new")
    assert base.class_names[0] == "red circle"
    assert len(base) == len(new) == 12
    assert not set(base.class_names) & set(new.class_names)


def test_emoji_of_small_subgroups_are_left_out(tmp_path):
    for vendor in VENDORS:
        folder = tmp_path / "emoji" / vendor
        folder.mkdir(parents=True)
        records = [
            {"file_name": f"{i}.png", "label": "animal" if i < 3 else "flag", "split": "train"} for i in range(4)
        ]
        records += [
            {"file_name": f"{split}.png", "label": "animal", "split": split} for split in ("validation", "test")
        ]
        for record in records:
            Image.new("RGB", (4, 4)).save(folder / record["file_name"])
        (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert write_emoji(tmp_path / "emoji", tmp_path / "kept", min_members=2) == 1
    assert len(open_classes("fluent", str(tmp_path / "kept"), "train")) == 3


def test_cells():
    assert cell([0.5, None]) == cell([]) == "not run"
    assert cell([0.5, "diverged", 0.4]) == "1 of 3 diverged"
    assert cell([0.5]) == 50
    np.testing.assert_allclose(cell([0.4, 0.6]), (50, 10))
