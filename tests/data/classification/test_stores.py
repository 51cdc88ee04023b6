"""A folder and TFDS's array_record give the same pixels; no TensorFlow is imported."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.classification.tiny_eurosat import pictures, write_eurosat
from vacsr_jax.data.classification.benchmarks import BENCHMARKS
from vacsr_jax.data.classification.source import open_classes
from vacsr_jax.data.classification.stores import INDEX, TfdsStore, decode, open_store
from vacsr_jax.data.decoding import decode_image


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_eurosat(root)
    return root


def test_both_roads_give_the_same_pixels_in_the_same_order(root):
    for split, subset, n in (("train", "all", 8), ("test", "all", 16), ("test_new", "base", 8)):
        folder, prepared = (
            open_classes("eurosat", str(root), split, subset=subset, shots=2, tfds_dir=tfds_dir)
            for tfds_dir in ("", str(root / "tfds"))
        )
        assert len(folder) == n
        assert folder.ids == prepared.ids
        np.testing.assert_array_equal(folder.labels, prepared.labels)
        for i in range(n):
            np.testing.assert_array_equal(folder.image(i), prepared.image(i))
    assert "tensorflow" not in sys.modules


def test_the_names_of_the_rows_are_kept_beside_them(root):
    store = open_store(BENCHMARKS["eurosat"], root, str(root / "tfds"))
    assert sorted(store.paths()) == sorted(pictures())
    kept = json.loads((store.folder / INDEX).read_text())
    assert str(root) not in json.dumps(kept)
    (store.folder / INDEX).write_text("damaged")
    assert TfdsStore(store.tfds, store.data_dir).read("forest/FOREST_1.JPG") == pictures()["Forest/Forest_1.jpg"]


def test_what_was_not_prepared_is_said_with_the_call_that_does(tmp_path):
    store = open_store(BENCHMARKS["oxford_pets"], "", str(tmp_path))
    with pytest.raises(ValueError, match=r"tfds.builder\('oxford_iiit_pet:4.0.0'"):
        store.paths()


@pytest.mark.parametrize("name", ["fgvc_aircraft", "ucf101", "sun397"])
def test_sets_without_a_faithful_builder_are_refused(name):
    with pytest.raises(ValueError, match="no TFDS builder has its images unchanged"):
        open_store(BENCHMARKS[name], "", "somewhere")


ROWS = {
    "imagenet": ({"file_name": "n01440764_10026.JPEG", "label": "n01440764"}, "train/n01440764/n01440764_10026.JPEG"),
    "caltech101": ({"image/file_name": "image_0001.jpg", "label": "accordion"}, "accordion/image_0001.jpg"),
    "oxford_pets": ({"file_name": "Abyssinian_1.jpg", "label": "x"}, "Abyssinian_1.jpg"),
    "stanford_cars": ({"id": "00001", "label": "x"}, "cars_train/00001.jpg"),
    "oxford_flowers": ({"file_name": "image_00001.jpg", "label": "x"}, "image_00001.jpg"),
    "food101": ({"id": "apple_pie/3065929", "label": "x"}, "apple_pie/3065929.jpg"),
    "dtd": ({"file_name": "banded/banded_0002.jpg", "label": "x"}, "banded/banded_0002.jpg"),
    "eurosat": ({"filename": "Forest_3.jpg", "label": "Forest"}, "Forest/Forest_3.jpg"),
    "imagenet_v2": ({"file_name": "0/ab.jpeg", "label": "x"}, "0/ab.jpeg"),
    "imagenet_sketch": ({"file_name": "n01440764/sketch_0.JPEG", "label": "x"}, "n01440764/sketch_0.JPEG"),
    "imagenet_a": ({"file_name": "0.0_fox.jpg", "label": "n01498041"}, "n01498041/0.0_fox.jpg"),
    "imagenet_r": ({"file_name": "n01443537/art_0.jpg", "label": "x"}, "n01443537/art_0.jpg"),
}


@pytest.mark.parametrize("name", [name for name, b in BENCHMARKS.items() if b.tfds])
def test_each_path_is_made_from_the_features_that_tfds_has(name):
    row, path = ROWS[name]
    tfds_of = BENCHMARKS[name].tfds
    assert tfds_of.path.format(split=tfds_of.splits.get("train", ""), **row) == path


def test_benchmarks_are_decoded_as_their_papers_code_does():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.asarray(decode(buffer.getvalue(), plain_rgb=True)).tolist() == [[[10, 20, 30]] * 2]
    own = np.asarray(decode(buffer.getvalue(), plain_rgb=False))
    np.testing.assert_array_equal(own, decode_image(io.BytesIO(buffer.getvalue())))
    assert own.tolist() == [[[255, 255, 255]] * 2]


def test_a_broken_picture_is_named(root):
    source = open_classes("eurosat", str(root), "test")
    file = root / "eurosat/2750" / source.ids[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f"eurosat: {source.ids[0]} cannot be read"):
        source.image(0)
    file.unlink()
    with pytest.raises(ValueError, match="1 of 16 images of test are missing"):
        open_classes("eurosat", str(root), "test")
    file.write_bytes(whole)
