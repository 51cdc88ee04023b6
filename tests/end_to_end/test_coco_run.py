"""The published COCO config, shrunk, on real photographs: as a folder and as TFDS, with noise and a ground truth."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.captions.small_coco import prepare, write_karpathy
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.noise import read_noise
from vacsr_jax.main import main

MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini159"
CONFIG = str(Path(__file__).parents[2] / "configs" / "coco.py")
SHRUNK = [
    f"--config.{field}"
    for field in (
        "data.dataset=",  # a part of COCO has other counts
        "data.validation_size=3",
        "data.workers=0",
        "model.pretrained=",
        "model.vocab_size=400",
        "model.context_length=16",
        "train.steps=2",
        "train.batch_size=16",
        "checkpoint.every=2",
        "optim.warmup_steps=1",
    )
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("compile_fast", "one_device"),
    pytest.mark.skipif(not MINI.is_dir(), reason="the photographs (shared/data/coco_mini159) are not here"),
]  # fmt: skip


def write_truth(folder, entries):
    """A ground truth of the test images, in eccv_caption's files: CxC has the original pairs, ECCV one image's."""
    folder.mkdir()
    i2t = {e["cocoid"]: e["sentids"] for e in entries}
    t2i = {caption: [image] for image, captions in i2t.items() for caption in captions}
    first = entries[0]["cocoid"]
    eccv = {first: i2t[first]}, {caption: [first] for caption in i2t[first]}
    for name, pair in {"original": (i2t, t2i), "cxc": (i2t, t2i), "eccv": eccv}.items():
        for kind, matches in zip(("image_to_caption", "caption_to_image"), pair, strict=True):
            (folder / f"{name}_{kind}.json").write_text(json.dumps(matches))
    np.save(folder / "coco_test_ids.npy", np.array(list(t2i)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """60 training images and 6 of restval, 4 and 75 of the test images as validation and test, in both forms."""
    root = tmp_path_factory.mktemp("coco")
    entries = json.loads((MINI / "dataset_coco_mini159.json").read_text())["images"]
    new_splits = ["train"] * 60 + ["restval"] * 6 + [None] * 14 + ["val"] * 4 + ["test"] * 75
    train, test = ([e for e in entries if e["split"] == split] for split in ("train", "test"))
    kept = [e | {"split": s} for e, s in zip(train + test, new_splits, strict=True) if s]
    with zipfile.ZipFile(MINI / "images.zip") as archive:
        archive.extractall(root)
    write_karpathy(root, kept, "mini")
    prepare(root / "tfds", kept, lambda entry: (root / "images" / entry["filename"]).read_bytes())
    write_truth(root / "truth", [e for e in kept if e["split"] == "test"])
    return root


def arguments(root, form):
    path = root if form == "karpathy" else root / "tfds"
    return f"{CONFIG}:path={path},form={form},ground_truth={root / 'truth'},noise=0.2"


@pytest.fixture(scope="module", params=["karpathy", "tfds"])
def run(request, root):
    workdir = root / f"run_{request.param}"
    main(["train", f"--config={arguments(root, request.param)}", f"--workdir={workdir}", *SHRUNK])
    return workdir, request.param


def test_both_forms_give_the_same_training_pixels_and_captions(root):
    karpathy, tfds = (open_split(load_config(arguments(root, form), SHRUNK), "train") for form in ("karpathy", "tfds"))
    assert len(karpathy) == len(tfds) == 66
    place = {i: n for n, i in enumerate(tfds.ids)}
    for n, i in enumerate(karpathy.ids):
        np.testing.assert_array_equal(karpathy.image(n), tfds.image(place[i]))
        assert list(karpathy.captions[n]) == list(tfds.captions[place[i]])
        assert list(karpathy.caption_ids[n]) == list(tfds.caption_ids[place[i]])


def test_it_is_evaluated_by_every_ground_truth_and_says_how(run):
    workdir, form = run
    found = json.loads((workdir / "evaluation.json").read_text())
    metrics, protocol = found["trained"], found["protocol"]
    names = [f"coco_{n}k_r{k}" for n in (1, 5) for k in (1, 5, 10)] + ["cxc_r1", "eccv_map_at_r", "eccv_rprecision"]
    assert {f"{d}{name}" for name in names for d in ("", "i2t/", "t2i/")} <= metrics.keys()
    assert metrics["i2t/coco_5k_r10"] == metrics["i2t/cxc_r10"] == metrics["i2t/R@10"]
    assert metrics["coco_5k_rsum"] == pytest.approx(metrics["rsum"])
    assert metrics["coco_1k_r10"] > metrics["coco_5k_r10"]
    assert (protocol["form"], protocol["split"], protocol["images"], protocol["captions"]) == (form, "test", 75, 375)
    assert (protocol["captions per image"], protocol["preprocess"]) == ("first 5", "pcmepp")
    assert protocol["ground truth"].endswith("truth")


def test_the_noise_is_kept_and_named(run):
    workdir, _ = run
    facts = json.loads((workdir / "evaluation.json").read_text())["noise"]
    noise = read_noise(workdir / "noise.npy", np.repeat(np.arange(66), 5))
    assert facts == {"protocol": "caption", "fraction": 0.2, "seed": 0} | {
        k: noise.facts[k] for k in ("wrong", "sha256")
    }
    assert 0.17 < facts["wrong"] <= 0.2


def test_the_other_form_and_no_ground_truth_give_the_same_numbers(root, tmp_path, capsys):
    workdir = root / "run_karpathy"
    fields = ["data.form=tfds", f"data.path={root / 'tfds'}", "data.ground_truth="]
    main(["evaluate", f"--model={workdir}", f"--out={tmp_path / 'm.json'}", *(f"--config.{f}" for f in fields)])
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert "ground truth labels" in capsys.readouterr().out
    assert metrics.pop("protocol")["form"] == "tfds"
    assert metrics.pop("distributions")["score"]["labelled"]["count"] == 375
    before = json.loads((workdir / "evaluation.json").read_text())["trained"]
    assert metrics.keys() < before.keys()
    assert metrics["rsum"] == pytest.approx(before["rsum"])
    assert metrics["mAP@R"] == pytest.approx(before["mAP@R"])


def test_a_ground_truth_of_other_images_is_refused(root, tmp_path, capsys):
    entries = json.loads((root / "dataset_mini.json").read_text())["images"]
    write_truth(tmp_path / "truth", entries[:5])
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", f"--model={root / 'run_karpathy'}", f"--config.data.ground_truth={tmp_path / 'truth'}"])
    assert ended.value.code == 2
    assert "is not in the ground truth" in capsys.readouterr().err
