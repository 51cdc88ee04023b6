"""WebDataset shards: what is read, by offset, and what is refused."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from vacsr_jax.data import webdataset
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.loader import Pairs, batch_at
from vacsr_jax.data.webdataset import INDEX, expand_braces, find_shards, read_webdataset, split_outside_braces


def encoded(grey, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (grey,) * 3).save(file, kind)
    return file.getvalue()


def write_tar(path, members, **options):
    """A tar of name -> bytes or text, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key, grey, text):
    return [(f"{key}.png", encoded(grey)), (f"{key}.txt", text)]


@pytest.fixture
def shards(tmp_path):
    """Three shards of ten samples: greys 0 .. 29."""
    for shard in range(3):
        members = [m for i in range(10) for m in sample(f"{i:03d}", 10 * shard + i, f"grey {10 * shard + i}\n")]
        write_tar(tmp_path / f"{shard:03d}.tar", members)
    return tmp_path


def greys(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_every_sample_has_its_own_picture_and_text(shards):
    found = read_webdataset(f"{shards}/{{000..002}}.tar")
    assert found.ids == [f"{shard:03d}/{i:03d}" for shard in range(3) for i in range(10)]
    assert greys(found) == list(range(30))
    assert found.captions == [[f"grey {i}"] for i in range(30)]
    assert found.image(29).shape == (5, 6, 3)
    assert [int(np.asarray(found.picture(i))[0, 0, 0]) for i in (17, 3, 28)] == [17, 3, 28]
    assert read_webdataset(str(shards)).ids == found.ids


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_kind(tmp_path, format):
    key = "folder/" + "n" * 90 + "/" + "m" * 90
    members = [
        (f"./{key}.JPG", encoded(0, "JPEG")),
        (f"./{key}.json", json.dumps({"caption": "long", "width": 6})),
        ("ü/b.cls", "3"),
        ("ü/b.seg.png", encoded(250)),
        ("ü/b.png", encoded(60)),
        ("ü/b.txt", "ünï"),
        ("ü/._b.png", b"of a Mac"),
        ("__MACOSX/c.png", b"of a Mac"),
        ("ü/b2.webp", encoded(0, "WEBP")),
        ("ü/b2.json", json.dumps({"captions": ["one", "two"], "label": [1]})),
        ("ü/b2.txt", "of the txt"),
    ]
    found = read_webdataset(str(write_tar(tmp_path / "x.tar", members, format=format)))
    assert found.ids == [f"x/{key}", "x/ü/b", "x/ü/b2"]
    assert found.captions == [["long"], ["ünï"], ["of the txt"]]
    assert greys(found) == [0, 60, 0]
    assert found.records[0]["width"] == 6
    members.pop()
    named = read_webdataset(str(write_tar(tmp_path / "x.tar", members[-2:], format=format)), caption_key="captions")
    assert named.captions == [["one", "two"]]


def test_the_index_is_made_once_and_again_for_another_file(shards, monkeypatch):
    first = read_webdataset(str(shards))
    assert len(list(shards.glob(f"*{INDEX}"))) == 3
    monkeypatch.setattr(webdataset, "scan", lambda shard: pytest.fail(f"{shard} was read again"))
    again = read_webdataset(str(shards))
    assert (again.ids, again.captions, greys(again)) == (first.ids, first.captions, greys(first))
    monkeypatch.undo()
    write_tar(shards / "001.tar", sample("x", 99, "another"))
    assert greys(read_webdataset(str(shards))) == [*range(10), 99, *range(20, 30)]


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', "[]", "offset", "type", "short"])
def test_a_damaged_index_is_made_again(shards, damage):
    expected = greys(read_webdataset(str(shards)))
    file = shards / f"000.tar{INDEX}"
    kept = json.loads(file.read_text())
    if damage == "offset":
        kept["samples"][0][2] = 10**9
    elif damage == "type":
        kept["samples"][0][4] = 7
    elif damage == "short":
        kept["samples"][0].pop()
    file.write_text(damage if damage[0] in "{[" else json.dumps(kept))
    assert greys(read_webdataset(str(shards))) == expected


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(shards):
    shards.chmod(0o500)
    assert greys(read_webdataset(str(shards))) == list(range(30))
    assert not list(shards.glob(f"*{INDEX}"))
    shards.chmod(0o700)


def test_an_index_that_cannot_be_written_is_left_out(shards, monkeypatch):
    def full(path, text):
        raise OSError("No space left on device")

    monkeypatch.setattr(webdataset, "write_text", full)
    assert greys(read_webdataset(str(shards))) == list(range(30))
    assert not list(shards.glob(f"*{INDEX}"))


def test_batches_are_those_of_the_same_pictures_as_files(shards, tmp_path):
    """Order, resumption and the shares of processes do not depend on how the pictures are stored."""
    source = read_webdataset(str(shards))
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:03d}.png").write_bytes(encoded(i))
        (folder / f"{i:03d}.txt").write_text(f"grey {i}")
    tokens, image_index = np.arange(60, dtype=np.int32).reshape(30, 2), np.arange(30)
    tars, files = (Pairs(s, tokens, image_index) for s in (source, read_image_folder(folder)))
    for step in (0, 3, 17):
        whole = batch_at(files, step, batch_size=8, seed=1)
        shares = [batch_at(pickle.loads(pickle.dumps(tars)), step, batch_size=8, seed=1, shard=(k, 2)) for k in (0, 1)]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), values)
        assert whole["images"][:, 0, 0, 0].tolist() == whole["index"].tolist()


def test_splits_are_those_of_the_names_of_files_or_folders(tmp_path):
    for i, name in enumerate(("train/000", "val/000", "test/000")):
        write_tar(tmp_path / "a" / f"{name}.tar", sample("k", i, f"text {i}"))
    for i, name in enumerate(("cc-train-0", "cc-train-1", "cc-validation-0", "cc-test-0")):
        write_tar(tmp_path / "test" / f"{name}.tar", sample("k", i, f"text {i}"))
    assert read_webdataset(f"{tmp_path}/a/{{train,val,test}}/000.tar", split="validation").ids == ["val/000/k"]
    parts = {s: greys(read_webdataset(str(tmp_path / "test"), split=s)) for s in ("train", "validation", "test")}
    assert parts == {"train": [0, 1], "validation": [2], "test": [3]}


def test_without_names_of_splits_a_hash_divides(shards):
    parts = [read_webdataset(str(shards), split=split).ids for split in ("train", "validation", "test")]
    assert sorted(i for ids in parts for i in ids) == read_webdataset(str(shards)).ids
    assert len(parts[0]) > 15


def test_braces():
    assert expand_braces("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expand_braces("{8..11}") == ["8", "9", "10", "11"]
    assert expand_braces("{2..0}") == ["2", "1", "0"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    assert split_outside_braces("a/{b,c}.tar,d.tar") == ["a/{b,c}.tar", "d.tar"]
    with pytest.raises(ValueError, match="more than 1,000,000 shards"):
        expand_braces("{0..99999999999}")


def test_shards_that_cannot_be_read(shards, tmp_path):
    with pytest.raises(ValueError, match=r"003\.tar: no such file \(2 of 5 shards are missing\)"):
        find_shards(f"{shards}/{{000..004}}.tar")
    with pytest.raises(ValueError, match="shards are read from disk, so fetch them first"):
        find_shards("s3://bucket/{000..004}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no tar file; give a folder"):
        find_shards(str(tmp_path / "empty"))
    with tarfile.open(tmp_path / "empty" / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"x\.tar\.gz: compressed, which has no random access"):
        find_shards(str(tmp_path / "empty"))


def cut(data, tmp_path):
    return data[: len(data) // 2]


def header(data, tmp_path):
    """The header of the third sample's picture becomes noise."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        start = tar.getmembers()[4].offset
    return data[:start] + b"\xff" * 512 + data[start + 512 :]


@pytest.mark.parametrize("damage", [cut, header, lambda data, _: b"not a tar file" * 100, lambda data, _: b""])
def test_a_damaged_shard_is_named_and_what_is_before_the_damage_is_kept(shards, damage, tmp_path):
    file = shards / "001.tar"
    file.write_bytes(damage(file.read_bytes(), tmp_path))
    with pytest.raises(ValueError, match=r"001\.tar: cannot be read as a tar file"):
        read_webdataset(str(shards))
    kept = read_webdataset(str(shards), on_error="skip", verify=True)
    assert list(kept.skipped) == ["damaged shard"]
    found = greys(kept)
    assert found[:10] == list(range(10))
    assert found[-10:] == list(range(20, 30))
    assert found == sorted(found)
    if damage is header:
        assert found[10:-10] == [10]  # the sample 11 may have had more members
    assert not (shards / f"001.tar{INDEX}").exists()


FAULTS = {
    "no picture": ([("b.txt", "two")], "no member with a picture's extension"),
    "no caption": ([("b.png", encoded(1))], "neither captions, caption, text nor label"),
    "blank caption": ([("b.png", encoded(1)), ("b.txt", " \n")], "caption: got ''"),
    "no UTF-8": ([("b.png", encoded(1)), ("b.txt", b"caf\xe9")], "caption: got"),
    "no JSON": ([("b.png", encoded(1)), ("b.json", "{")], r"its \.json is not JSON"),
    "deep JSON": ([("b.png", encoded(1)), ("b.json", "[" * 100_000)], r"its \.json is not JSON"),
    "list": ([("b.png", encoded(1)), ("b.json", "[1]")], "got list, expected a JSON object"),
    "same key": (sample("a", 1, "again"), "repeats the id x/a"),
    "broken picture": ([("b.png", encoded(1)[:45]), ("b.txt", "two")], r"x\.tar: b\.png cannot be read"),
    "no picture at all": ([("b.png", "words"), ("b.txt", "two")], r"x\.tar: b\.png cannot be read"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_its_sample_or_is_skipped(tmp_path, case):
    members, message = FAULTS[case]
    middle = sample("m", 2, "middle")
    write_tar(tmp_path / "x.tar", [*sample("a", 1, "one"), *middle, *members, *sample("c", 3, "three")])
    with pytest.raises(ValueError, match=rf"x\.tar: \w: .*{message}"):
        read_webdataset(str(tmp_path / "x.tar"), verify=True)
    kept = read_webdataset(str(tmp_path / "x.tar"), on_error="skip", verify=True)
    assert (kept.ids, greys(kept)) == (["x/a", "x/m", "x/c"], [1, 2, 3])
    assert len(kept.skipped) == 1
