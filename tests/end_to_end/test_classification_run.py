"""EuroSAT's config, shrunk, on tiny data in its two real layouts; ImageNet's with its four variants."""

import json
import sys

import pytest

from experiments.classification import __main__ as experiment
from experiments.classification.runs import Task, run_all
from experiments.classification.twins import write_scenes
from tests.data.classification.tiny_eurosat import COLOURS, jpeg, write_eurosat
from vacsr_jax.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]

# The last two fields give all models of a method one shape, so that their runs share compiled programs.
SHRUNK = {
    "model.pretrained": "",
    "data.shots": 4,
    "train.epochs": 2,
    "train.batch_size": 8,
    "model.vocab_size": 259,
    "adapter.base_rate_bias": False,
}


def draw(file, colour, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(colour, seed))


def train(config, workdir, *fields):
    overrides = [f"--config.{field}" for field in (*(f"{k}={v}" for k, v in SHRUNK.items()), *fields)]
    main(["train", f"--config=configs/{config}", f"--workdir={workdir}", *overrides])
    return json.loads((workdir / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """A run on images from TFDS's array_record, beside a folder of the same images."""
    root = tmp_path_factory.mktemp("data")
    write_eurosat(root)
    config = f"base_to_novel.py:dataset=eurosat,root={root},template=per-dataset"
    return root, train(config, root / "run", f"data.tfds={root / 'tfds'}")


def test_a_run_is_evaluated_on_both_halves_and_says_on_what(eurosat, tmp_path, capsys):
    root, result = eurosat
    base, new = result["trained"]["test_base"], result["trained"]["test_new"]
    assert base["label_space"] == {"classes": 2, "first": "Annual Crop Land", "last": "Forest"}
    assert new["label_space"] == {"classes": 2, "first": "Highway or Road", "last": "River"}
    assert base["images"] == new["images"] == 8
    assert base["template"] == "a centered satellite photo of {}."
    b, n = base["accuracy"], new["accuracy"]
    assert result["trained_summary"]["harmonic_mean"] == pytest.approx(2 * b * n / (b + n) if b + n else 0)
    assert "harmonic mean of means" in result["trained_summary"]["hm_convention"]
    assert result["step"] == 2  # 2 epochs of one whole batch of 8
    selection = json.loads((root / "run/checkpoints/2/metrics/metrics").read_text())
    assert selection == {"selection": {"by": "step", "value": 2}}
    out = tmp_path / "shots.json"
    manifest = root / "eurosat/split_zhou_EuroSAT.json"
    main(["data", "shots", f"--manifest={manifest}", "--shots=4", "--seed=1", "--subset=base", f"--out={out}"])
    assert f"sha256 {result['shots_sha256']}" in capsys.readouterr().out
    assert (root / "run/shots.json").read_bytes() == out.read_bytes()


def test_the_folder_and_tfds_give_the_same_numbers(eurosat, tmp_path):
    root, result = eurosat
    wanted, out = result["trained"]["test_new"], tmp_path / "new.json"
    classify = ("classify", f"--model={root / 'run'}", f"--root={root}", "--dataset=eurosat", "--template=per-dataset")
    main([*classify, "--split=test_new", f"--out={out}"])
    assert json.loads(out.read_text()) == wanted
    for fields in ([], ["--config.data.tfds="]):
        main(["evaluate", f"--model={root / 'run'}", "--split=test_new", f"--out={out}", *fields])
        assert json.loads(out.read_text()) == wanted


def test_a_missing_data_set_is_named(tmp_path, capsys):
    for argument, message in (
        ("", "--config=base_to_novel:dataset="),
        (f":dataset=eurosat,root={tmp_path}", "split_zhou_EuroSAT.json"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", f"--config=configs/base_to_novel.py{argument}", f"--workdir={tmp_path / 'run'}"])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_imagenet_trains_by_depth_and_is_evaluated_on_four_others(tmp_path):
    wnids = ("n01440764", "n01443537", "n02119789", "n02120505")
    colours = list(COLOURS.values())
    for label, wnid in enumerate(wnids):
        for i in range(5):
            draw(tmp_path / f"imagenet/images/train/{wnid}/{wnid}_{i}.JPEG", colours[label], 10 * label + i)
        draw(tmp_path / f"imagenet/images/val/{wnid}/v.JPEG", colours[label], label)
        draw(tmp_path / f"imagenetv2/imagenetv2-matched-frequency-format-val/{label}/v.jpeg", colours[label], label)
        draw(tmp_path / f"imagenet-sketch/images/{wnid}/v.JPEG", colours[label], label)
        if label % 2:
            draw(tmp_path / f"imagenet-adversarial/imagenet-a/{wnid}/v.jpg", colours[label], label)
            draw(tmp_path / f"imagenet-rendition/imagenet-r/{wnid}/v.jpg", colours[label], label)
    names = ("tench", "goldfish", "kit fox", "grey fox")
    lines = (f"{wnid} {name}\n" for wnid, name in zip(wnids, names, strict=True))
    (tmp_path / "imagenet/classnames.txt").write_text("".join(lines))
    fields = ("optim.image_blocks=1", "optim.text_blocks=1")  # the tiny towers have two and one
    result = train(f"domain_generalization.py:root={tmp_path},method=sigmoid", tmp_path / "run", *fields)["trained"]
    assert {name: of["label_space"]["classes"] for name, of in result.items()} == {
        "test": 4,
        "imagenet_v2/test": 4,
        "imagenet_sketch/test": 4,
        "imagenet_a/test": 2,
        "imagenet_r/test": 2,
    }


def test_the_scenes_twin_runs_and_is_tabulated(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    write_scenes(root / "scenes", {"train": 2, "val": 1, "test": 1})
    fields = {**SHRUNK, "data.shots": 2, "train.epochs": 1, "optim.warmup_steps": 0}
    task = experiment.task("scenes", "sigmoid", 1, root, fields)
    run_all([Task(task.name, task.config, task.fields)], tmp_path)
    monkeypatch.setattr(sys, "argv", ["", f"--out={tmp_path}", "--seeds", "1", "--table"])
    capsys.readouterr()
    experiment.main()
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("| vacsr")).count("not run") == 3
    row = next(line for line in lines if line.startswith("| sigmoid"))
    assert all(0 <= float(cell) <= 100 for cell in row.split("|")[2:-1])
