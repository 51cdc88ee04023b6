"""The walk over folders that people bring, and which links a list of files may name."""

import json
import logging
import os

import pytest
from PIL import Image

from vacsr_jax.data import picture_files
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.picture_files import (
    FORMAT_OF,
    describe_left_out,
    find_pictures,
    is_picture,
    leaves,
    readable_formats,
    report_left_out,
)

# What systems and programs leave behind, each with a file that looks like a picture.
HIDDEN_FOLDERS = (
    ".ipynb_checkpoints",
    "__MACOSX",
    ".git",
    "@eaDir",
    "$RECYCLE.BIN",
    ".Trashes",
    "lost+found",
    ".cache",
)
HIDDEN_FILES = ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "ehthumbs.db", ".hidden.jpg", ".gitattributes")


@pytest.fixture
def messy(tmp_path):
    """A folder with a picture of each readable suffix, and all that is left out."""
    folder = tmp_path / "messy"
    (folder / "sub" / "deep").mkdir(parents=True)
    for suffix in FORMAT_OF:
        (folder / "sub" / f"p{suffix}").write_bytes(b"1234")
    (folder / "sub" / "deep" / "UPPER.JPG").write_bytes(b"12")
    for name in HIDDEN_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(b"1")
    for name in (*HIDDEN_FILES, "captions.txt", "other.txt", "archive.tar.gz", "README", "drawing.svg"):
        (folder / name).write_bytes(b"1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.png").write_bytes(b"123")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "one.png").symlink_to(elsewhere / "far.png")
    (folder / "gone.png").symlink_to(elsewhere / "gone.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "sub" / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    return folder


def test_all_pictures_are_found_and_the_rest_is_counted(messy):
    files, left_out = find_pictures(messy)
    readable = {s for s in FORMAT_OF if FORMAT_OF[s] in readable_formats()}
    expected = {f"sub/p{s}": 4 for s in readable} | {"sub/deep/UPPER.JPG": 2, "linked/far.png": 3, "one.png": 3}
    assert files == expected
    assert list(files) == sorted(expected)
    left_out = {kind: n for kind, n in left_out.items() if "(" not in kind}  # .heic, where it cannot be read
    assert left_out == {
        "hidden folder": len(HIDDEN_FOLDERS),
        "hidden file": len(HIDDEN_FILES),
        ".txt": 2,
        ".gz": 1,
        ".svg": 1,
        "suffixless file": 1,
        "broken link": 2,
        "circular link": 1,
        "special file": 1,
    }


def test_a_folder_without_surprises_is_not_mentioned(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"1")
    report_left_out(tmp_path, find_pictures(tmp_path).left_out)
    assert not caplog.records


def test_what_was_left_out_is_one_line(messy, caplog):
    with caplog.at_level(logging.WARNING):
        report_left_out(messy, find_pictures(messy).left_out)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{messy}: left out 1 .gz, ")
    assert "8 hidden folders" in record.getMessage()
    assert describe_left_out({"hidden file": 1, ".txt": 1200}) == "1 hidden file, 1,200 .txt"


def test_links_between_folders_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    files, left_out = find_pictures(tmp_path)
    assert list(files) == ["a/link/x.png", "a/x.png", "b/link/x.png", "b/x.png"]
    assert left_out == {"circular link": 2}


def test_a_deep_folder_is_no_recursion(tmp_path):
    path = tmp_path
    for _ in range(40):
        path = path / ("d" * 20)
    path.mkdir(parents=True)
    (path / "x.png").write_bytes(b"1")
    assert len(find_pictures(tmp_path).files) == 1


def test_heic_without_its_package_is_counted_with_the_way_to_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "readable_formats", lambda: ("PNG",))
    (tmp_path / "a.HEIC").write_bytes(b"1")
    (tmp_path / "b.avif").write_bytes(b"1")
    files, left_out = find_pictures(tmp_path)
    assert not files
    assert left_out == {
        '.heic (pip install "vacsr_jax[heif]")': 1,
        ".avif (a Pillow with AVIF: pip install -U pillow)": 1,
    }
    assert not is_picture("a.HEIC")


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot as the Hugging Face hub's cache has it: every file is a link to ../../blobs."""
    repo = tmp_path / "hub" / "datasets--user--pictures"
    blobs, folder = repo / "blobs", repo / "snapshots" / "0123abc"
    for path in (blobs, folder / "train"):
        path.mkdir(parents=True)
    Image.new("RGB", (4, 3), (9, 9, 9)).save(blobs / "f00d", "PNG")
    lines = [{"file_name": "train/a.png", "text": "one"}, {"file_name": "b.png", "text": "two"}]
    (blobs / "beef").write_text("\n".join(map(json.dumps, lines)))
    (folder / "train" / "a.png").symlink_to("../../../blobs/f00d")
    (folder / "b.png").symlink_to("../../blobs/f00d")
    (folder / "metadata.jsonl").symlink_to("../../blobs/beef")
    return folder


def test_a_snapshot_of_the_hub_is_read(snapshot):
    found = read_image_folder(snapshot)
    assert found.ids == ["train/a.png", "b.png"]
    assert found.image(0).tolist() == [[[9, 9, 9]] * 4] * 3
    assert list(find_pictures(snapshot).files) == ["b.png", "train/a.png"]


@pytest.mark.parametrize("name", ["../other/secret.png", "../../blobs/../../secret.png", "/etc/secret.png", "link.png"])
def test_a_path_that_leaves_a_snapshot_is_refused(name, snapshot):
    secret = snapshot.parents[2] / "secret.png"
    Image.new("RGB", (4, 3)).save(secret)
    (snapshot / "link.png").symlink_to(secret)
    (snapshot / "metadata.jsonl").unlink()
    (snapshot / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}))
    with pytest.raises(ValueError, match="leaves the folder"):
        read_image_folder(snapshot)


def test_a_relative_folder_keeps_what_is_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    for folder in (".", "", "../" + tmp_path.name):
        assert not leaves(tmp_path.__class__(folder) / "a.png", tmp_path.__class__(folder))
        assert leaves(tmp_path.__class__(folder) / ".." / "a.png", tmp_path.__class__(folder))
