"""People's own pictures with captions, opened as a config names them."""

import csv
import io
import tarfile

import pytest
from PIL import Image

from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import OWN, absolute_paths, missing_paths, open_split

N = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same pictures as a folder with a table, as shards, and as a table of paths."""
    root = tmp_path_factory.mktemp("own")
    (root / "folder").mkdir()
    rows = [{"file_name": f"{i:02d}.png", "text": f"grey {i}"} for i in range(N)]
    with tarfile.open(root / "shard-0.tar", "w") as tar:
        for i, row in enumerate(rows):
            Image.new("RGB", (5, 4), (i, i, i)).save(root / "folder" / row["file_name"])
            tar.add(root / "folder" / row["file_name"], f"{i:02d}.png")
            text = tarfile.TarInfo(f"{i:02d}.txt")
            text.size = len(row["text"])
            tar.addfile(text, io.BytesIO(row["text"].encode()))
    for name, columns in (("folder/metadata.csv", ("file_name", "text")), ("pairs.csv", ("filepath", "title"))):
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if name == "pairs.csv" else ",")
            writer.writerow(columns)
            writer.writerows((f"{'folder/' if name == 'pairs.csv' else ''}{r['file_name']}", r["text"]) for r in rows)
    return root


PATHS = {"image_folder": "folder", "webdataset": "shard-{0..0}.tar", "csv": "pairs.csv"}


@pytest.mark.parametrize("name", PATHS)
def test_the_config_of_each_form_opens_every_picture_with_its_text_in_one_split(data, name):
    config = load_config(f"{name}:path={data / PATHS[name]}", [])
    parts = [open_split(config, split) for split in ("train", "validation", "test")]
    found = {int(s.image(i)[0, 0, 0]): s.captions[i] for s in parts for i in range(len(s))}
    assert found == {i: [f"grey {i}"] for i in range(N)}
    assert sum(map(len, parts)) == N
    assert len(open_split(config, None)) == N


@pytest.mark.parametrize("name", OWN)
def test_a_form_without_a_path_says_what_to_give(name):
    with pytest.raises(ValueError, match=rf"data\.path is empty; say where the data is: --config={name}:path="):
        open_split(load_config(name, []), "train")


def test_keys_and_errors_are_those_of_the_config(data, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"photo;words\n{data}/folder/00.png;one\n{data}/folder/99.png;two\n")
    fields = ["data.image_key=photo", "data.caption_key=words", "data.separator=;", "data.on_error=skip"]
    config = load_config(f"csv:path={tmp_path / 'pairs.csv'}", [f"--config.{field}" for field in fields])
    assert open_split(config, None).captions == [["one"]]


def test_pictures_with_classes_alone_are_no_captions(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / "animals" / name).parent.mkdir(parents=True)
        Image.new("RGB", (5, 4)).save(tmp_path / "animals" / name)
    message = rf"classes but no captions; .*--config=base_to_novel:dataset=animals,root={tmp_path}"
    with pytest.raises(ValueError, match=message):
        open_split(load_config(f"image_folder:path={tmp_path / 'animals'}", []), None)


def test_patterns_are_recorded_as_absolute_and_missed_when_they_are_moved(data, monkeypatch):
    monkeypatch.chdir(data)
    found = absolute_paths("shard-{0,1}.tar,folder,folder/{0..2}/{a,b}.tar,user/name,no/{0..1}.tar")
    here = [str(data / name) for name in ("shard-{0,1}.tar", "folder", "folder/{0..2}/{a,b}.tar")]
    assert found == ",".join([*here, "user/name", "no/{0..1}.tar"])
    config = load_config(f"webdataset:path={found},{data}/gone/{{0..1}}.tar", [])
    assert missing_paths(config) == [f"{data}/gone/{{0..1}}.tar"]
