"""COCO and Flickr30k in each of their forms: equal pixels, captions and ids; counts; refusals."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.data.captions.small_coco import draw_entries, jpeg, prepare, write_annotations, write_images, write_karpathy
from vacsr_jax.data.captions.known import KNOWN, KnownSet
from vacsr_jax.data.captions.open import open_captions
from vacsr_jax.main import main

SPLITS = {"train": 4, "restval": 2, "val": 2, "test": 3}
ENTRIES = draw_entries(SPLITS, captions=6)
FORMS = ("karpathy", "annotations", "tfds")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All three forms in one folder."""
    root = tmp_path_factory.mktemp("coco")
    write_images(root, ENTRIES)
    write_karpathy(root, ENTRIES)
    write_annotations(root, ENTRIES)
    prepare(root, ENTRIES, lambda entry: jpeg(entry["imgid"]))
    return root


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    for name, images in {"coco": SPLITS, "flickr30k": {"train": 3, "val": 1, "test": 1}}.items():
        monkeypatch.setitem(KNOWN, name, KNOWN[name]._replace(images=images))


def test_the_published_counts():
    images = {name: sum(sizes[s] for s in ("train", "restval") if s in sizes) for name, sizes in ORIGINAL.items()}
    assert images == {"coco": 113_287, "flickr30k": 29_000, "flickr8k": 6_000}
    assert 5 * images["coco"] == 566_435


ORIGINAL = {name: one.images for name, one in KNOWN.items()}


def by_id(found):
    return {
        i: (found.image(n).tobytes(), found.image(n).shape, tuple(found.captions[n]), tuple(found.caption_ids[n]))
        for n, i in enumerate(found.ids)
    }


@pytest.mark.parametrize("split", ["train", "validation", "test", None])
def test_all_forms_give_the_same_pixels_captions_and_ids(root, split):
    karpathy, annotations, tfds = (by_id(open_captions(root, split, dataset="coco", form=form)) for form in FORMS)
    assert karpathy == annotations == tfds
    assert len(karpathy) == {"train": 6, "validation": 2, "test": 3, None: 11}[split]


@pytest.mark.parametrize("form", FORMS)
def test_the_first_five_captions_in_the_files_order_with_their_ids(root, form):
    found = open_captions(root, "test", dataset="coco", form=form)
    entry = next(e for e in ENTRIES if str(e["cocoid"]) == found.ids[1])
    assert list(found.captions[1]) == [s["raw"] for s in entry["sentences"][:5]]
    assert list(found.caption_ids[1]) == [s["sentid"] for s in entry["sentences"][:5]]
    assert (found.protocol["images"], found.protocol["captions"], found.protocol["captions per image"]) == (
        3,
        15,
        "first 5",
    )


def test_all_captions_can_be_had(root):
    assert {len(c) for c in open_captions(root, "test", dataset="coco", per_image=0).captions} == {6}


def test_a_source_can_be_cut_and_sent_to_a_worker(root):
    for form in FORMS:
        whole = open_captions(root, "train", dataset="coco", form=form)
        cut = pickle.loads(pickle.dumps(whole.first(2)))
        assert (len(cut), cut.ids, cut.protocol["images"], cut.protocol["captions"]) == (2, whole.ids[:2], 2, 10)
        np.testing.assert_array_equal(cut.image(1), whole.image(1))
        last = len(whole) - 1  # of restval: the second part
        np.testing.assert_array_equal(whole.image(last), open_captions(root, None, form=form).image(last))


def test_tfds_is_read_without_tensorflow(root):
    code = (
        "import sys; from vacsr_jax.data.captions.open import open_captions; "
        f"print(open_captions({str(root)!r}, 'test', form='tfds').image(0).shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("3) False")


def test_flickr_has_no_numbers_of_images_and_one_folder(tmp_path):
    entries = draw_entries({"train": 3, "val": 1, "test": 1})
    write_images(tmp_path, [e | {"filepath": "flickr30k-images"} for e in entries])
    for entry in entries:
        del entry["filepath"], entry["cocoid"]
    write_karpathy(tmp_path, entries, "flickr30k")
    found = open_captions(tmp_path, "test", dataset="flickr30k")
    assert found.ids == [entries[-1]["filename"]]
    assert found.image(0).shape[2] == 3
    with pytest.raises(ValueError, match="got 'tfds' for flickr30k, expected karpathy"):
        open_captions(tmp_path, "test", dataset="flickr30k", form="tfds")


# Malformed data.


def rewritten(tmp_path, change):
    """Writes Karpathy's file with entries changed by `change`, without images."""
    entries = json.loads(json.dumps(ENTRIES))
    entries = change(entries) or entries
    write_images(tmp_path, entries)
    write_karpathy(tmp_path, entries)
    return tmp_path


WRONG = {
    "train: 3 images, but 4 were published": lambda e: e[1:],
    "restval: 0 images, but 2 were published": lambda e: [x for x in e if x["split"] != "restval"],
    "train: 19 captions, but 20 were published; image 993 has 4": lambda e: e[1].update(
        sentences=e[1]["sentences"][:4]
    ),
    "caption id 50 repeats": lambda e: e[0]["sentences"][0].update(sentid=50),
    "image id 1000 repeats": lambda e: e[1].update(cocoid=1000),
    "image 993 has no caption, or one that is empty": lambda e: e[1]["sentences"][2].update(raw=" "),
    r"images\[1\]: expected filename, split and sentences with raw and sentid": lambda e: e[1].pop("split"),
    r"images\[2\]: expected filename": lambda e: e[2].update(sentences=None),
    "no image of split train or restval; the splits are test, val": lambda e: [
        x for x in e if x["split"] in ("val", "test")
    ],
}


@pytest.mark.parametrize("message", WRONG)
def test_a_split_that_is_not_the_published_one_says_what_differs(message, tmp_path):
    def change(entries):
        kept = WRONG[message](entries)
        return kept if isinstance(kept, list) else None

    with pytest.raises(ValueError, match=message):
        open_captions(rewritten(tmp_path, change), "train", dataset="coco")


def test_a_part_is_taken_where_no_data_set_is_named(tmp_path):
    found = open_captions(rewritten(tmp_path, lambda e: e[1:]), "train")
    assert (len(found), found.protocol["dataset"]) == (5, f"{tmp_path.name}/dataset_coco.json")


def test_missing_images_are_counted_and_one_is_named(tmp_path):
    root = rewritten(tmp_path, lambda e: None)
    for entry in ENTRIES[:2]:
        (root / entry["filepath"] / entry["filename"]).unlink()
    with pytest.raises(ValueError, match=r"2 of 6 images are missing, such as .*1000\.jpg; `vacsr data check coco"):
        open_captions(root, "train", dataset="coco")


def test_a_broken_image_is_named(tmp_path):
    root = rewritten(tmp_path, lambda e: None)
    (root / ENTRIES[0]["filepath"] / ENTRIES[0]["filename"]).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"COCO_train2014_000000001000\.jpg cannot be read"):
        open_captions(root, "train", dataset="coco").image(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "coc"}, "data.dataset: got 'coc', expected coco, flickr30k, flickr8k, or '' for your own data"),
        ({"form": "json"}, "data.form: got 'json', expected one of karpathy, annotations, tfds"),
        ({"split": "dev"}, "split: got 'dev', expected one of train, validation, test"),
        ({}, r"expected one dataset_\*\.json \(Karpathy's split file\), found none"),
        ({"form": "annotations"}, r"no captions_train2014\.json"),
        ({"form": "tfds"}, "no coco_captions prepared by tensorflow_datasets"),
    ],
)
def test_what_is_not_there_is_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_captions(tmp_path, arguments.pop("split", "test"), **arguments)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "x\0.jpg", ""])
def test_an_image_that_leaves_the_folder_is_refused(name, tmp_path):
    entries = [ENTRIES[0], ENTRIES[1] | {"filepath": "", "filename": name}]
    write_karpathy(tmp_path, entries)  # without images, which would be written where the names say
    with pytest.raises(ValueError, match=r"images\[1\]: .*leaves the data set's folder"):
        open_captions(tmp_path, "train")


@pytest.mark.parametrize("content", ["[]", '{"images": 5}', "[" * 100_000])
def test_a_split_file_of_another_kind_is_refused(content, tmp_path):
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"dataset_coco\.json(: expected an object with a list of images| is not JSON)"
    ):
        open_captions(tmp_path, "test", dataset="coco")


def test_an_id_without_an_annotation_is_named(tmp_path):
    write_images(tmp_path, ENTRIES)
    write_annotations(tmp_path, ENTRIES)
    np.save(tmp_path / "karpathy_ids" / "coco_test_ids.npy", np.array([7777]))
    with pytest.raises(
        ValueError, match=r"coco_test_ids\.npy: caption id 7777 is in none of the captions_\*2014\.json"
    ):
        open_captions(tmp_path, "test", dataset="coco", form="annotations")


def test_a_caption_without_its_image_is_named(tmp_path):
    write_images(tmp_path, ENTRIES)
    write_annotations(tmp_path, ENTRIES)
    file = tmp_path / "annotations" / "captions_val2014.json"
    content = json.loads(file.read_text())
    strange = [c | {"image_id": {"id": 1}} for c in content["annotations"]]
    file.write_text(json.dumps(content | {"annotations": strange}))
    with pytest.raises(ValueError, match=r"captions_val2014\.json: expected COCO's images and annotations"):
        open_captions(tmp_path, "test", dataset="coco", form="annotations")
    file.write_text(json.dumps(content | {"images": []}))
    with pytest.raises(ValueError, match=r"coco_test_ids\.npy: caption id \d+ belongs to image \d+, which is in none"):
        open_captions(tmp_path, "test", dataset="coco", form="annotations")
    np.save(tmp_path / "karpathy_ids" / "coco_test_ids.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"coco_test_ids\.npy .*pickled objects are not read"):
        open_captions(tmp_path, "test", dataset="coco", form="annotations")


# vacsr data check.


def test_check_says_what_is_there(root, capsys):
    main(["data", "check", "coco", f"--root={root}"])
    out = capsys.readouterr().out
    assert out.startswith("coco: complete\n")
    counts = "train 6 images, 30 captions; validation 2 images, 10 captions; test 3 images, 15 captions"
    assert all(f"  {form}: {counts}\n" in out for form in FORMS)


def test_check_says_what_is_missing_and_where_to_get_it(tmp_path, capsys):
    write_karpathy(tmp_path, ENTRIES)
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", "coco", f"--root={tmp_path}"])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert out.startswith("coco: INCOMPLETE\n")
    assert "karpathy: 6 of 6 images are missing" in out
    assert f"unpacked to {tmp_path}/train2014" in out
    assert "coco_{train,restval,dev,test}_ids.npy" in out


def test_another_known_data_set_is_one_entry(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(KNOWN, "mine", KnownSet(SPLITS, ("{name}: write to me, and unpack into {root}",)))
    write_images(tmp_path, ENTRIES)
    with pytest.raises(SystemExit):
        main(["data", "check", "mine", f"--root={tmp_path}"])
    assert f"  mine: write to me, and unpack into {tmp_path}" in capsys.readouterr().out
    write_karpathy(tmp_path, ENTRIES)
    (tmp_path / "dataset_coco.json").rename(tmp_path / "dataset_mine.json")
    main(["data", "check", "mine", f"--root={tmp_path}"])
    assert "train 6 images, 30 captions" in capsys.readouterr().out
