"""Tables from each kind of manifest, on tiny folders in the real layouts."""

import json
import re

import pytest
from PIL import Image

from vacsr_jax.data.classification.benchmarks import BENCHMARKS, KINDS, find_benchmark
from vacsr_jax.data.classification.check import check_benchmark
from vacsr_jax.data.classification.source import load_benchmark, open_classes
from vacsr_jax.data.classification.stores import FolderStore
from vacsr_jax.data.classification.tables import read_table, read_zhou_json
from vacsr_jax.main import main

WNIDS = ["n01440764", "n01443537", "n02119789"]


def draw(path, colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), colour).save(path)


def table_of(name, root):
    benchmark = find_benchmark(name, root)
    return read_table(benchmark, root, FolderStore(root / benchmark.folder / benchmark.images).paths)


@pytest.fixture
def imagenet(tmp_path):
    """Writes ImageNet and its variants in no particular order: three classes, of which A and R have two."""
    folder = tmp_path / "imagenet"
    for wnid in reversed(WNIDS):
        for i in (2, 0, 1):
            draw(folder / "images/train" / wnid / f"{wnid}_{i}.JPEG")
        draw(folder / "images/val" / wnid / "ILSVRC2012_val_00000001.JPEG")
    names = ("tench", "goldfish", "kit fox")
    lines = [f"{wnid} {name}\n" for wnid, name in zip(WNIDS, names, strict=True)]
    (folder / "classnames.txt").write_text("".join(lines))
    for i in (2, 0):
        draw(tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val" / str(i) / "x.jpeg")
        draw(tmp_path / "imagenet-adversarial/imagenet-a" / WNIDS[i] / "a b.jpg")
    (tmp_path / "imagenet-adversarial/imagenet-a/README.txt").write_text("ignored")
    return tmp_path


def test_there_are_fifteen_records_of_known_kinds():
    assert len(BENCHMARKS) == 15
    assert {b.kind for b in BENCHMARKS.values()} <= set(KINDS)
    assert len({b.folder for b in BENCHMARKS.values()}) == 15
    for benchmark in BENCHMARKS.values():
        assert benchmark.template.count("{}") == 1
        assert benchmark.source


def test_folders_by_key_are_sorted_whatever_the_file_system_says(imagenet):
    table = table_of("imagenet", imagenet)
    assert table.class_names == ["tench", "goldfish", "kit fox"]
    assert [tuple(item) for item in table.splits["train"][:4]] == [
        *((f"train/{WNIDS[0]}/{WNIDS[0]}_{i}.JPEG", 0, "tench") for i in range(3)),
        (f"train/{WNIDS[1]}/{WNIDS[1]}_0.JPEG", 1, "goldfish"),
    ]
    assert [item.label for item in table.splits["test"]] == [0, 1, 2]


def test_index_folders_are_labels_and_take_imagenets_names(imagenet):
    table = table_of("imagenet_v2", imagenet)
    assert [(item.label, item.name) for item in table.splits["test"]] == [(0, "tench"), (2, "kit fox")]
    assert len(table.class_names) == 3


def test_the_label_space_of_a_variant_is_its_own_classes(imagenet):
    table = table_of("imagenet_a", imagenet)
    assert table.class_names == ["tench", "kit fox"]
    assert [item.label for item in table.splits["test"]] == [0, 1]


def test_imagenets_shots_are_written_with_an_empty_val(imagenet, tmp_path, capsys):
    out = tmp_path / "shots.json"
    main(["data", "shots", "--dataset=imagenet", f"--root={imagenet}", "--shots=2", f"--out={out}"])
    written = json.loads(out.read_text())
    assert (len(written["train"]), written["val"]) == (6, [])


def test_aircraft_is_read_from_its_own_lists(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    folder.mkdir()
    (folder / "variants.txt").write_text("707-320\nA310\n")
    for split in ("train", "val", "test"):
        (folder / f"images_variant_{split}.txt").write_text("0034309 A310\n1025794 707-320\n")
    table = table_of("fgvc_aircraft", tmp_path)
    assert [tuple(item) for item in table.splits["val"]] == [("0034309.jpg", 1, "A310"), ("1025794.jpg", 0, "707-320")]
    (folder / "images_variant_val.txt").write_text("0034309 A319\n")
    with pytest.raises(ValueError, match="variant 'A319' is not"):
        table_of("fgvc_aircraft", tmp_path)


def test_own_folders_with_and_without_splits(tmp_path):
    for name in ("cat", "dog"):
        for i in range(30):
            draw(tmp_path / "hashed" / name / f"{i}.png")
        for split in ("train", "test"):
            draw(tmp_path / "divided" / split / name / "0.png")
        draw(tmp_path / "divided/val" / name / "0.png")
    hashed, divided = table_of("hashed", tmp_path), table_of("divided", tmp_path)
    assert sum(map(len, hashed.splits.values())) == 60
    assert set(hashed.splits) == {"train", "val", "test"}
    assert [len(items) for items in divided.splits.values()] == [2, 2, 2]
    (tmp_path / "divided/classnames.txt").write_text("dog a good dog\ncat\n")
    assert table_of("divided", tmp_path).class_names == ["a good dog", "cat"]


def test_an_image_folder_with_labels(tmp_path):
    folder = tmp_path / "mine"
    rows = [("a.png", "dog", "train"), ("b.png", "cat", "train"), ("c.png", "cat", "test"), ("d.png", "dog", "val")]
    for name, *_ in rows:
        draw(folder / name)
    lines = [json.dumps(dict(zip(("file_name", "label", "split"), row, strict=True))) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    table = table_of("mine", tmp_path)
    assert [tuple(item) for item in table.splits["train"]] == [("a.png", 1, "dog"), ("b.png", 0, "cat")]
    assert {split: len(items) for split, items in table.splits.items()} == {"train": 2, "test": 1, "val": 1}
    source = open_classes("mine", str(tmp_path), "test")
    assert (source.class_names, source.labels.tolist(), source.image(0).shape) == (["cat", "dog"], [0], (5, 6, 3))


BAD_JSON = {
    '{"train": 2, "val": [], "test": []}': "got train, val, test, expected an object with the lists",
    '{"train": [["../a.jpg", 0, "x"]], "val": [], "test": []}': r"train\[0\]: .*leaves the data set's folder",
    "[1]": "got list, expected an object with the lists",
    "{": "not JSON",
    '{"train": [], "val": []}': "got train, val, expected an object with the lists",
    '{"train": [["a.jpg", "0", "x"]], "val": [], "test": []}': r"train\[0\]: got .*expected \[path, label",
    '{"train": [["a.jpg", 0, "x"]], "val": [["b.jpg", 0, "y"]], "test": []}': "label 0 is both 'x' and 'y'",
    '{"train": [["a.jpg", 1, "x"]], "val": [], "test": []}': r"got labels \[1\]",
}


@pytest.mark.parametrize("text", BAD_JSON)
def test_a_malformed_split_file_is_named(text, tmp_path):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=f"split.json(:| is) .*{BAD_JSON[text]}"):
        read_zhou_json(tmp_path / "split.json")


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(ValueError, match=r"split_zhou_EuroSAT.json: no such file; it comes from github.com"):
        table_of("eurosat", tmp_path)
    with pytest.raises(ValueError, match="did you mean eurosat"):
        find_benchmark("eursat", tmp_path)


def test_flat_validation_images_are_refused(imagenet):
    for path in (imagenet / "imagenet/images/val").rglob("*.JPEG"):
        path.rename(imagenet / "imagenet/images/val" / f"{path.parent.name}.JPEG")
    with pytest.raises(ValueError, match=r"images/val: no picture in a class folder"):
        table_of("imagenet", imagenet)


def test_a_folder_that_is_no_class_is_refused(imagenet):
    draw(imagenet / "imagenet/images/train/n99999999/a.JPEG")
    with pytest.raises(ValueError, match=r"folder 'n99999999' is not in classnames.txt"):
        table_of("imagenet", imagenet)


def test_check_says_what_is_missing_and_ends_with_status_one(tmp_path, capsys):
    folder = tmp_path / "stanford_cars"
    draw(folder / "cars_train/00001.jpg")
    rows = [["cars_train/00001.jpg", 0, "a"], ["cars_train/00002.jpg", 1, "b"]]
    (folder / "split_zhou_StanfordCars.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", "stanford_cars", f"--root={tmp_path}"])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    for line in ("INCOMPLETE", "1 found", "classes: got 2, expected 196", "train: got 2 images, expected 6,509"):
        assert line in out
    assert "1 of 2 images are missing, such as cars_train/00002.jpg" in out
    assert re.search("dead link: ai.stanford.edu", out)


def test_check_of_everything_covers_all_fifteen(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "classification", f"--root={tmp_path}"])
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if line.endswith("INCOMPLETE")] == list(BENCHMARKS)


def test_check_of_own_data_that_is_whole(tmp_path, capsys):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            draw(tmp_path / "pets" / split / name / "0.png")
    assert check_benchmark("pets", tmp_path).complete
    main(["data", "check", "pets", f"--root={tmp_path}"])
    assert "base / new: 1 / 1 classes, 1 / 1 test images" in capsys.readouterr().out


def test_class_folders_as_people_bring_them(tmp_path, caplog):
    """Hidden folders are no classes, every format counts, and what lies outside a class folder is said."""
    names = [
        f"{name}/{i}{suffix}" for name in ("cat", "dog") for i in range(20) for suffix in (".png", ".tif", ".jfif")
    ]
    for name in (*names, ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._0.png", "cat/._0.png", "cat/more/x.png"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _, table, _ = load_benchmark("mine", str(tmp_path))
    assert table.class_names == ["cat", "dog"]
    assert sorted(item.path for items in table.splits.values() for item in items) == sorted(names)
    assert caplog.messages == [
        f"{tmp_path / 'mine'}: left out 1 hidden file, 2 hidden folders",
        f"{tmp_path / 'mine'}: left out 1 pictures that are not in a class folder, such as cat/more/x.png",
    ]
