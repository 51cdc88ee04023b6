"""The forms of Hugging Face's ImageFolder, and img2dataset's folders, which clip-retrieval reads."""

import csv
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from vacsr_jax.data.classification.source import open_classes
from vacsr_jax.data.image_folder import read_image_folder

GREYS = {"a": 10, "b": 20, "c": 30}
ROWS = [{"file_name": f"{name}.png", "text": f"picture {name}"} for name in GREYS]


def draw(folder, names=GREYS):
    """Pictures whose pixels are all 10, 20, 30."""
    for i, name in enumerate(names):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (10 * i + 10,) * 3).save(file)
    return folder


def write_csv(folder, rows, separator=","):
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(folder, rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_parquet(folder, rows, classes=()):
    table = pa.Table.from_pylist(rows)
    if classes:
        features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "metadata.parquet")


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def greys(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("form", WRITERS)
def test_each_table_gives_every_picture_its_text(tmp_path, form):
    WRITERS[form](draw(tmp_path), [*ROWS[1:], {**ROWS[0], "text": 'a "quoted",\nlong text, ü\u2028'}])
    found = read_image_folder(tmp_path)
    assert found.ids == ["b.png", "c.png", "a.png"]
    assert found.captions == [["picture b"], ["picture c"], ['a "quoted",\nlong text, ü\u2028']]
    assert greys(found) == [20, 30, 10]
    assert found.labels is None


@pytest.mark.parametrize("form", WRITERS)
def test_rows_of_one_picture_are_its_captions(tmp_path, form):
    rows = [{**row, "text": f"{word} {row['text']}"} for word in ("first", "second") for row in ROWS[:2]]
    WRITERS[form](draw(tmp_path), rows)
    found = read_image_folder(tmp_path)
    assert found.ids == ["a.png", "b.png"]
    assert found.captions == [[f"{word} picture {name}" for word in ("first", "second")] for name in "ab"]


@pytest.mark.parametrize("form", WRITERS)
def test_a_table_in_each_splits_folder(tmp_path, form):
    """Names are relative to the table's own folder, and may repeat in another split."""
    for split in ("train", "val", "test"):
        WRITERS[form](draw(tmp_path / split), ROWS)
    parts = {split: read_image_folder(tmp_path, split=split) for split in ("train", "validation", "test")}
    assert [part.ids[0] for part in parts.values()] == ["train/a.png", "val/a.png", "test/a.png"]
    assert [part.captions for part in parts.values()] == [[[row["text"]] for row in ROWS]] * 3
    assert greys(parts["test"]) == [10, 20, 30]


def test_tables_below_data_and_hidden_folders(tmp_path):
    for place in ("data/train", "data/test", ".ipynb_checkpoints", "__MACOSX"):
        write_csv(draw(tmp_path / place), ROWS)
    assert read_image_folder(tmp_path).ids == [f"data/{s}/{n}.png" for s in ("test", "train") for n in "abc"]


def test_one_table_whose_pictures_are_in_folders_of_splits(tmp_path):
    names = [f"{split}/{name}" for split in ("training", "dev", "eval") for name in "ab"]
    draw(tmp_path, names)
    write_csv(tmp_path, [{"file_name": f"{name}.png", "caption": name} for name in names])
    found = read_image_folder(tmp_path)
    assert found.splits == ["train", "train", "validation", "validation", "test", "test"]
    assert read_image_folder(tmp_path, split="test").captions == [["eval/a"], ["eval/b"]]


def test_folders_of_splits_that_hold_only_some_pictures_are_not_taken_for_splits(tmp_path, caplog):
    names = ["train/a", "train/b", "extra/c"]
    draw(tmp_path, names)
    write_csv(tmp_path, [{"file_name": f"{name}.png", "caption": name} for name in names])
    found = read_image_folder(tmp_path)
    assert len(found) == 3
    assert "only 2 of 3 pictures are in folders named as a split" in caplog.text


def test_only_train_is_divided_as_if_there_were_no_split_and_the_same_pictures_stay_in_it(tmp_path):
    names = [f"train/{i}" for i in range(60)]
    draw(tmp_path / "one", names)
    (tmp_path / "two/test").mkdir(parents=True)
    for name in names:
        (tmp_path / "one" / f"{name}.png").write_bytes((tmp_path / "one/train/0.png").read_bytes())
    rows = [{"file_name": f"{name}.png", "caption": name} for name in names]
    write_csv(tmp_path / "one", rows)
    one = read_image_folder(tmp_path / "one", verify=False)
    assert {one.splits.count(s) for s in ("train", "validation", "test")} != {0}
    assert set(one.splits) == {"train", "validation", "test"}
    draw(tmp_path / "one", ["test/x"])
    write_csv(tmp_path / "one", [*rows, {"file_name": "test/x.png", "caption": "x"}])
    two = read_image_folder(tmp_path / "one", verify=False)
    assert [i for i, s in zip(two.ids, two.splits, strict=True) if s == "test"] == ["test/x.png"]
    before = [i for i, s in zip(one.ids, one.splits, strict=True) if s == "validation"]
    assert [i for i, s in zip(two.ids, two.splits, strict=True) if s == "validation"] == before


@pytest.mark.parametrize("form", WRITERS)
def test_integer_labels_keep_their_order(tmp_path, form):
    names = [str(i) for i in range(11)]
    draw(tmp_path, names)
    WRITERS[form](tmp_path, [{"file_name": f"{i}.png", "label": (7 * int(i)) % 11} for i in names])
    found = read_image_folder(tmp_path)
    assert found.class_names == names
    np.testing.assert_array_equal(found.labels, [7 * i % 11 for i in range(11)])


def test_integer_labels_have_the_names_that_a_parquet_file_carries(tmp_path):
    write_parquet(draw(tmp_path), [{**row, "label": i} for i, row in enumerate(ROWS)], classes=["x", "dog", "cat"])
    found = read_image_folder(tmp_path)
    assert [found.class_names[k] for k in found.labels] == ["x", "dog", "cat"]


@pytest.mark.parametrize(("told", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_unicode_normalization(tmp_path, told, stored):
    name = "été/naïve"
    draw(tmp_path, [unicodedata.normalize(stored, name)])
    write_csv(tmp_path, [{"file_name": unicodedata.normalize(told, f"{name}.png"), "caption": "x"}])
    assert greys(read_image_folder(tmp_path)) == [10]


def test_a_column_that_ends_in_file_name_and_a_named_caption(tmp_path):
    rows = [{"image_file_name": "a.png", "prompt": "a grey", "text": "not this"}]
    write_csv(draw(tmp_path), rows)
    assert read_image_folder(tmp_path, caption_key="prompt").captions == [["a grey"]]
    with pytest.raises(ValueError, match=r"metadata\.csv:2: promt: got nothing"):
        read_image_folder(tmp_path, caption_key="promt")


def test_a_table_that_was_written_on_windows(tmp_path):
    draw(tmp_path, ["sub/a", "sub/b"])
    text = "file_name,text\r\nsub\\a.png,one\r\n.\\sub\\b.png,two\r\n"
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_image_folder(tmp_path)
    assert (found.ids, found.captions, greys(found)) == (["sub/a.png", "./sub/b.png"], [["one"], ["two"]], [10, 20])


def test_class_folders_with_and_without_splits(tmp_path):
    draw(tmp_path / "plain", ["dog/1", "cat/1", "cat/2"])
    (tmp_path / "plain/.DS_Store").write_text("")
    found = read_image_folder(tmp_path / "plain")
    assert (found.ids, found.class_names) == (["cat/1.png", "cat/2.png", "dog/1.png"], ["cat", "dog"])
    assert found.captions == [[], [], []]
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    draw(tmp_path / "divided", ["train/dog/1", "train/cat/1", "test/cat/1", "validation/dog/2"])
    test = read_image_folder(tmp_path / "divided", split="test")
    assert (test.ids, test.class_names, test.labels.tolist()) == (["test/cat/1.png"], ["cat", "dog"], [0])
    draw(tmp_path / "unlabelled", ["train/1", "test/2"])
    with pytest.raises(ValueError, match=r"no text beside a picture .* and no folder for each class"):
        read_image_folder(tmp_path / "unlabelled")


def test_a_text_or_json_beside_each_picture(tmp_path):
    """img2dataset's `files` output: 00000/000000000.jpg, .txt and .json."""
    draw(tmp_path, ["00000/000", "00000/001", "00001/000"])
    (tmp_path / "00000/000.txt").write_text("a first picture\n", encoding="utf-8")
    (tmp_path / "00000/000.json").write_text(json.dumps({"caption": "of the json", "key": "000"}))
    (tmp_path / "00000/001.json").write_text(json.dumps({"caption": "a second", "label": [1], "url": "x"}))
    (tmp_path / "00001/000.txt").write_text("a third", encoding="utf-8")
    found = read_image_folder(tmp_path)
    assert found.ids == ["00000/000.png", "00000/001.png", "00001/000.png"]
    assert found.captions == [["a first picture"], ["a second"], ["a third"]]
    assert found.records[1]["url"] == "x"
    (tmp_path / "00001/000.txt").unlink()
    with pytest.raises(ValueError, match=r"00001/000\.png: neither captions"):
        read_image_folder(tmp_path)
    assert len(read_image_folder(tmp_path, on_error="skip")) == 2


CSV_FAULTS = {
    "cells": ("b.png,one,two", "3 cells for the 2 columns file_name, text"),
    "empty text": ("b.png,", "neither captions, caption, text nor label"),
    "no UTF-8": (b"b.png,caf\xe9", "text: got"),
    "missing image": ("d.png,x", "no file .*d.png"),
    "leaves": ("../b.png,x", "leaves the folder"),
}


@pytest.mark.parametrize("case", CSV_FAULTS)
def test_a_fault_in_a_csv_names_its_line_or_is_skipped(tmp_path, case):
    row, message = CSV_FAULTS[case]
    row = row if isinstance(row, bytes) else row.encode()
    (draw(tmp_path) / "metadata.csv").write_bytes(b'file_name,text\na.png,"1\n2"\n' + row + b"\nc.png,3\n")
    with pytest.raises(ValueError, match=rf"metadata\.csv:4: .*{message}"):
        read_image_folder(tmp_path)
    kept = read_image_folder(tmp_path, on_error="skip")
    assert (kept.ids, kept.captions) == (["a.png", "c.png"], [["1\n2"], ["3"]])


def test_rows_of_one_picture_must_agree(tmp_path):
    write_csv(draw(tmp_path), [{**ROWS[0], "split": "train"}, {**ROWS[0], "split": "test"}])
    with pytest.raises(ValueError, match=r"metadata.csv:3: split: got 'test', but .*metadata.csv:2 has 'train'"):
        read_image_folder(tmp_path)


def test_two_tables_in_one_folder_and_a_damaged_one(tmp_path):
    write_csv(draw(tmp_path), ROWS)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"holds metadata\.csv and metadata\.parquet; keep one"):
        read_image_folder(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(ValueError, match=r"metadata\.parquet cannot be read as Parquet"):
        read_image_folder(tmp_path)


def test_a_csv_of_classes_is_a_data_set_of_classes(tmp_path):
    names = [f"{split}/{name}" for split in ("train", "val", "test") for name in "ab"]
    draw(tmp_path / "mine", names)
    write_csv(tmp_path / "mine", [{"file_name": f"{n}.png", "label": n[-1]} for n in names])
    source = open_classes("mine", str(tmp_path), "test")
    assert (source.class_names, source.labels.tolist(), source.image(1)[0, 0, 0]) == (["a", "b"], [0, 1], 60)
