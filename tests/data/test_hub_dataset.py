"""Data sets of Hugging Face's `datasets`, as saved on disk and as a repository of Parquet files."""

import sys

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data.hub_dataset import read_hub_dataset


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'pip install "vacsr_jax\[datasets\]"'):
        read_hub_dataset("user/name")


@pytest.fixture(scope="module")
def datasets():
    module = pytest.importorskip("datasets")
    module.disable_progress_bars()
    return module


def pictures(n, shift=0):
    return [Image.new("RGB", (4, 3), (10 * i + shift,) * 3) for i in range(n)]


def greys(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


@pytest.fixture
def parts(datasets):
    """Train and validation of pictures with a list of captions, and classes."""

    def part(n, shift):
        columns = {
            "image": pictures(n, shift),
            "captions": [[f"one {i}", f"two {i}"] for i in range(n)],
            "label": [i % 2 for i in range(n)],
            "width": [4] * n,
        }
        features = datasets.Features(
            image=datasets.Image(),
            captions=datasets.List(datasets.Value("string")),
            label=datasets.ClassLabel(names=["odd", "even"]),
            width=datasets.Value("int64"),
        )
        return datasets.Dataset.from_dict(columns, features)

    return datasets.DatasetDict(train=part(4, 0), validation=part(3, 100), test=part(2, 200))


@pytest.mark.parametrize("form", ["saved", "repository"])
def test_a_data_set_on_disk(parts, tmp_path, form, monkeypatch):
    folder = tmp_path / "set"
    if form == "saved":
        parts.save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        for split, part in parts.items():
            part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = read_hub_dataset(str(folder), split="validation")
    assert found.ids == ["validation/0", "validation/1", "validation/2"]
    assert greys(found) == [100, 110, 120]
    assert found.captions == [[f"one {i}", f"two {i}"] for i in range(3)]
    assert [found.class_names[k] for k in found.labels] == ["odd", "even", "odd"]
    assert found.records[0]["width"] == 4
    assert len(read_hub_dataset(str(folder))) == 9


def test_one_split_is_divided_and_columns_are_chosen(datasets, tmp_path):
    columns = {"photo": pictures(20), "other": pictures(20, 5), "prompt": [f"text {i}" for i in range(20)]}
    kinds = {"photo": datasets.Image(), "other": datasets.Image(), "prompt": datasets.Value("string")}
    datasets.Dataset.from_dict(columns, datasets.Features(kinds)).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"2 columns of pictures; name one: .*of: photo, other"):
        read_hub_dataset(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"no column of captions; name it: .*of: photo, other, prompt"):
        read_hub_dataset(str(tmp_path / "set"), image_key="other")
    found = read_hub_dataset(str(tmp_path / "set"), image_key="other", caption_key="prompt")
    assert greys(found)[:3] == [5, 15, 25]
    assert found.captions[19] == ["text 19"]
    assert set(found.splits) > {"train"}


def test_a_picture_is_decoded_as_that_of_every_other_source(datasets, tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)
    rows = {"image": [str(tmp_path / "x.png")], "text": ["turned"]}
    kinds = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    datasets.Dataset.from_dict(rows, kinds).save_to_disk(tmp_path / "set")
    found = read_hub_dataset(str(tmp_path / "set"))
    np.testing.assert_array_equal(found.image(0)[..., 0], [[3, 0], [4, 1], [5, 2]])


def test_a_bad_row_is_named_or_skipped(datasets, tmp_path):
    rows = {"image": [*pictures(2), None, {"bytes": b"words", "path": None}], "text": ["one", " ", "three", "four"]}
    kinds = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    datasets.Dataset.from_dict(rows, kinds).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"set: train: row 1: text: got ' '"):
        read_hub_dataset(str(tmp_path / "set"), verify=True)
    kept = read_hub_dataset(str(tmp_path / "set"), on_error="skip", verify=True)
    assert (kept.ids, {reason: len(x) for reason, x in kept.skipped.items()}) == (
        ["train/0"],
        {"bad text": 1, "unreadable image": 2},
    )


def test_a_name_that_is_nowhere(datasets, tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded by datasets"):
        read_hub_dataset(str(tmp_path / "nowhere"))
