import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data import decoding
from vacsr_jax.data.decoding import decode_image
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.source import concatenate, to_array_source

EMOJI = Path(__file__).parents[2].parent / "shared/data/emoji"


def write(folder, *lines):
    """Writes images a.png, b.png, c.png whose pixels are all 10, 20, 30, and the given lines: objects or raw text."""
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in zip((10, 20, 30), "abc", strict=True):
        Image.new("RGB", (4, 3), (value, value, value)).save(folder / f"{name}.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def line(name, **fields):
    return {"file_name": f"{name}.png", "text": f"picture {name}", **fields}


def test_every_image_keeps_its_own_texts_class_and_record(tmp_path):
    lines = [
        {"file_name": "c.png", "captions": ["three", "drei"], "label": "odd", "id": 7, "extra": [1]},
        "",
        {"file_name": "a.png", "caption": "one", "label": "odd"},
        {"file_name": "b.png", "text": "two\u2028lines", "label": "even"},
    ]
    folder = read_image_folder(write(tmp_path, *lines))
    assert folder.ids == ["7", "a.png", "b.png"]
    assert folder.captions == [["three", "drei"], ["one"], ["two\u2028lines"]]
    assert [folder.class_names[k] for k in folder.labels] == ["odd", "odd", "even"]
    assert [folder.image(i)[0, 0, 0] for i in range(3)] == [30, 10, 20]
    assert folder.image(0).shape == (3, 4, 3)
    assert folder.image(0).dtype == np.uint8
    assert folder.records[0]["extra"] == [1]
    assert folder.skipped == {}


def test_a_folder_of_classes_needs_no_caption(tmp_path):
    folder = read_image_folder(write(tmp_path, *({"file_name": f"{n}.png", "label": n} for n in "ba")))
    assert folder.captions == [[], []]
    assert folder.class_names == ["a", "b"]
    np.testing.assert_array_equal(folder.labels, [1, 0])


FAULTS = {
    "not JSON": ("{'file_name': 'b.png'}", "not JSON"),
    "cut line": ('{"file_name": "b.png", "text": "tw', "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "not an object": ('["b.png", "two"]', "got list, expected a JSON object"),
    "no file_name": ({"text": "two"}, "file_name: got nothing"),
    "file_name no text": ({"file_name": 3, "text": "two"}, "file_name: got 3"),
    "missing image": (line("nowhere"), "no file .*nowhere.png"),
    "a folder": (line("x", file_name="."), "no file"),
    "long name": (line("n" * 5000), "no file"),
    "zero bytes": (line("zero"), "zero.png has zero bytes"),
    "truncated": (line("cut"), "cut.png cannot be read .*truncated"),
    "no image": (line("words"), "words.png cannot be read"),
    "PostScript": (line("script"), "script.png cannot be read .*cannot identify"),
    "a pipe": (line("pipe"), "no file .*pipe.png"),
    "too many pixels": (line("bomb"), "2000 x 2000 pixels"),
    "dot dot": (line("x", file_name="../out.png"), "leaves the folder"),
    "absolute": (line("x", file_name="/etc/out.png"), "leaves the folder"),
    "symlink": (line("link"), "leaves the folder"),
    "nul": (line("x", file_name="b\0.png"), "leaves the folder"),
    "no caption": ({"file_name": "b.png"}, "neither captions, caption, text nor label"),
    "empty caption": (line("b", text=""), "text: got ''"),
    "blank caption": (line("b", text=" \n"), "text: got"),
    "number caption": (line("b", text=5), "text: got 5"),
    "null caption": (line("b", text=None), "text: got None"),
    "half character": (line("b", text="a \ud83d"), "text: got"),
    "two keys": (line("b", caption="zwei"), "has caption and text; keep one"),
    "empty list": ({"file_name": "b.png", "captions": []}, r"captions: got \[\]"),
    "list of one string": ({"file_name": "b.png", "captions": "two"}, "captions: got 'two'"),
    "blank in list": ({"file_name": "b.png", "captions": ["two", " "]}, r"captions\[1\]: got ' '"),
    "number in list": ({"file_name": "b.png", "captions": [2.5]}, r"captions\[0\]: got 2.5"),
    "empty label": (line("b", label=""), "label: got ''"),
    "null id": (line("b", id=None), "id: got None"),
    "same id": (line("b", id="a.png"), r"repeats the id a\.png of .*metadata\.jsonl:1;"),
    "same file": (line("a", id="other"), r"repeats the path .*a\.png of .*metadata\.jsonl:1;"),
    "same file by detour": (line("x", file_name="sub/../a.png"), "repeats the path"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_its_line_or_is_skipped_and_counted(tmp_path, monkeypatch, case):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1_000_000)
    bad, message = FAULTS[case]
    folder = write(tmp_path / "set", line("a"), bad, line("c"))
    (folder / "zero.png").touch()
    (folder / "words.png").write_text("not a picture")
    (folder / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    os.mkfifo(folder / "pipe.png")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "out.png")
    (folder / "cut.png").write_bytes((tmp_path / "out.png").read_bytes()[:1500])
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    Image.new("1", (2000, 2000)).save(folder / "bomb.png")
    with pytest.raises(ValueError, match=rf"metadata\.jsonl:2: .*{message}"):
        read_image_folder(folder)
    kept = read_image_folder(folder, on_error="skip")
    assert kept.ids == ["a.png", "c.png"]
    assert kept.captions == [["picture a"], ["picture c"]]
    assert [kept.image(i)[0, 0, 0] for i in range(2)] == [10, 30]
    ((example,),) = kept.skipped.values()
    assert "metadata.jsonl:2: " in example


def test_without_verify_a_broken_image_is_named_when_it_is_opened(tmp_path):
    folder = write(tmp_path, line("a"), line("b"))
    (folder / "b.png").write_text("not a picture")
    opened = read_image_folder(folder, verify=False)
    assert opened.image(0).shape == (3, 4, 3)
    with pytest.raises(ValueError, match=r"metadata\.jsonl:2: .*b\.png cannot be read"):
        opened.image(1)


def test_a_folder_with_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no metadata\.jsonl, metadata\.csv, metadata\.parquet and no picture"):
        read_image_folder(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no record is left .*the file is empty"):
        read_image_folder(write(tmp_path, "\n"))
    with pytest.raises(ValueError, match=r"no record is left .*1 malformed line, 1 missing image"):
        read_image_folder(write(tmp_path, "{", line("x")), on_error="skip")
    with pytest.raises(ValueError, match="on_error: got 'ignore'"):
        read_image_folder(tmp_path, on_error="ignore")


def test_splits_are_those_of_the_file(tmp_path):
    lines = [
        line("a", split="train", label="x"),
        line("b", split="val", label="y"),
        line("c", split="train", label="y"),
    ]
    folder = write(tmp_path, *lines)
    assert read_image_folder(folder, split="train").ids == ["a.png", "c.png"]
    validation = read_image_folder(folder, split="validation")
    assert validation.ids == read_image_folder(folder, split="val").ids == ["b.png"]
    assert validation.class_names == ["x", "y"]  # the class numbers are those of training
    np.testing.assert_array_equal(validation.labels, [1])
    with pytest.raises(ValueError, match="no image of split 'test'; expected one of train, validation"):
        read_image_folder(folder, split="test")
    with pytest.raises(ValueError, match=r"metadata\.jsonl:2: no split, but other lines have one"):
        read_image_folder(write(tmp_path, line("a", split="train"), line("b")))
    with pytest.raises(ValueError, match=r"metadata\.jsonl:1: no label, but other lines have one"):
        read_image_folder(write(tmp_path, line("a"), line("b", label="y")))


def test_a_broken_image_of_another_split_is_no_concern(tmp_path):
    folder = write(tmp_path, line("a", split="train"), line("b", split="test"))
    (folder / "b.png").unlink()
    assert read_image_folder(folder, split="train").ids == ["a.png"]


def test_without_splits_the_hash_of_the_id_divides(tmp_path):
    (tmp_path / "a.png").touch()
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    for i in range(300):
        os.link(tmp_path / "a.png", tmp_path / f"{i}.png")

    def split_ids(numbers):
        lines = [json.dumps(line(str(i), id=f"id{i}")) for i in numbers]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
        parts = {s: read_image_folder(tmp_path, split=s).ids for s in ("train", "validation", "test")}
        assert sorted(i for ids in parts.values() for i in ids) == sorted(f"id{i}" for i in numbers)
        return parts

    few, all_of_them = split_ids(range(0, 300, 2)), split_ids(range(300))
    for name, ids in few.items():
        assert set(ids) <= set(all_of_them[name])  # no picture changed its split when others came
    assert 220 <= len(all_of_them["train"]) <= 260
    assert min(len(all_of_them["validation"]), len(all_of_them["test"])) >= 15


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I"])
def test_every_mode_gives_the_grey_that_was_meant(tmp_path, mode):
    level = 255 if mode == "1" else 200
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.full((2, 3), level * 257, np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.new("RGB", (3, 2), (level, level, level))
        image = image.quantize() if mode == "P" else image.convert(mode)
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "I") else "x.png")
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(decode_image(path), np.full((2, 3, 3), level))


def test_transparency_becomes_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (100, 0, 0, 255))
    half.save(tmp_path / "rgba.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 100, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "p.png"):
        np.testing.assert_array_equal(decode_image(tmp_path / name), [[[255, 255, 255], [100, 0, 0]]])


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned, so show the picture turned a quarter clockwise
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png")[..., 0], [[3, 0], [4, 1], [5, 2]])


def test_pixels_without_an_8_bit_meaning_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "i.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(tmp_path / "f.tiff")
    with pytest.raises(ValueError, match="32-bit integer"):
        decode_image(tmp_path / "i.tiff")


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji folder (shared/data/emoji) is not beside this checkout")
def test_emoji_vendors_read_and_join():
    vendors = {v: read_image_folder(EMOJI / v, split="validation") for v in ("noto", "openmoji")}
    both = to_array_source(concatenate(vendors), lambda image: image[::4, ::4])
    assert both.images.shape == (278, 16, 16, 3)
    assert both.ids[0].removeprefix("noto") == both.ids[139].removeprefix("openmoji")
    assert both.captions[0] == both.captions[139]
    assert len(both.class_names) == 95
    assert len(read_image_folder(EMOJI / "noto", verify=False)) == 1389


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "MPO"])
def test_every_format_is_read(kind, tmp_path):
    Image.new("RGB", (4, 3), (200, 200, 200)).save(tmp_path / "a", kind)
    assert abs(int(decode_image(tmp_path / "a").mean()) - 200) < 4
