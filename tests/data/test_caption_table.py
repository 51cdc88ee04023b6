"""Tables of paths and captions, as open_clip takes them."""

import os

import pytest
from PIL import Image

from vacsr_jax.data.caption_table import read_caption_table


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (4, 3), (10 * i + 10,) * 3).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def greys(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_open_clips_defaults_are_a_tab_filepath_and_title(folder):
    text = 'filepath\ttitle\npictures/b.png\ttwo, "quoted"\npictures/a.png\tone\npictures/b.png\tzwei\n'
    (folder / "pairs.csv").write_text(text.replace('"', ""), encoding="utf-8")
    found = read_caption_table(folder / "pairs.csv")
    assert found.ids == ["pictures/b.png", "pictures/a.png"]
    assert found.captions == [["two, quoted", "zwei"], ["one"]]
    assert greys(found) == [20, 10]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_any_separator_and_any_columns(folder, separator):
    rows = [["key", "img", "prompt", "title"], ["1", "pictures/c.png", "three", "not this"]]
    (folder / "pairs.csv").write_text("\n".join(separator.join(row) for row in rows))
    given = separator if separator in ";|" else ""
    options = {"image_key": "img", "caption_key": "prompt", "separator": given}
    assert read_caption_table(folder / "pairs.csv", **options).captions == [["three"]]


def test_paths_are_absolute_or_start_at_the_table_or_here(folder, monkeypatch, tmp_path):
    (folder / "tables").mkdir()
    paths = [folder / "pictures/a.png", "../pictures/b.png", "pictures/c.png"]
    text = "".join(f"{path},text\n" for path in paths)
    (folder / "tables/pairs.csv").write_text(f"image,caption\n{text}")
    monkeypatch.chdir(folder)
    found = read_caption_table("tables/pairs.csv")
    assert greys(found) == [10, 20, 30]
    assert found.ids == [str(path) for path in paths]
    monkeypatch.chdir(tmp_path / "tables")
    with pytest.raises(ValueError, match=r"pairs\.csv:4: no file .*c\.png"):
        read_caption_table("pairs.csv")
    os.chdir(folder)
    assert greys(found) == [10, 20, 30]  # also from another folder


def test_splits_by_a_column_by_the_names_of_tables_or_by_hash(folder):
    (folder / "one.csv").write_text(
        "image,caption,split\npictures/a.png,x,train\npictures/b.png,y,val\npictures/c.png,z,test\n"
    )
    assert read_caption_table(folder / "one.csv", split="validation").captions == [["y"]]
    (folder / "tables").mkdir()
    for name, letter in (("train", "a"), ("my-val", "b"), ("test", "c")):
        (folder / "tables" / f"{name}.csv").write_text(f"image,caption\n../pictures/{letter}.png,{letter}\n")
    parts = {s: read_caption_table(folder / "tables", split=s).captions for s in ("train", "validation", "test")}
    assert parts == {"train": [["a"]], "validation": [["b"]], "test": [["c"]]}
    assert len(read_caption_table(folder / "tables" / "my-val.csv")) == 1


BAD = {
    "image,text\n": "no column any of filepath",
    "image,words\npictures/a.png,x\n": r"no column any of title, .*data\.caption_key=NAME, of: image, words",
    "photo,text\npictures/a.png,x\n": r"no column any of filepath, .*data\.image_key=NAME, of: photo, text",
    "image,text\npictures/a.png,x\npictures/d.png,y\n": r"pairs\.csv:3: no file",
    "image,text\npictures/a.png,x\npictures/b.png, \n": r"pairs\.csv:3: text: got ' '",
    "image,text\npictures/a.png,x\n,y\n": r"pairs\.csv:3: image: got nothing",
    "image,text\npictures/a.png,x\npictures/b.png,y,z\n": r"pairs\.csv:3: 3 cells for the 2 columns",
    'image,text\npictures/a.png,x\npictures/b.png,"' + "y" * 140_000: r"pairs\.csv:3: not CSV",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40])
def test_a_bad_table_is_named(folder, text):
    (folder / "pairs.csv").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]):
        read_caption_table(folder / "pairs.csv")


def test_a_named_column_that_is_not_there_and_a_file_that_is_not_there(folder):
    (folder / "pairs.csv").write_text("image,text\npictures/a.png,x\n")
    with pytest.raises(ValueError, match="no column 'txt'; name that of the captions"):
        read_caption_table(folder / "pairs.csv", caption_key="txt")
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such file"):
        read_caption_table(folder / "nowhere.csv")
    with pytest.raises(ValueError, match="no table"):
        read_caption_table(folder / "pictures")
    (folder / "more").mkdir()
    for name in ("a", "train"):
        (folder / "more" / f"{name}.csv").write_text("image,text\n")
    with pytest.raises(ValueError, match=r"a\.csv: its name tells no split"):
        read_caption_table(folder / "more")
