"""What is refused before step 1, that a refused run leaves nothing behind, and short runs that just work."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.training.steps import small_config
from vacsr_jax.cli.train import open_tests
from vacsr_jax.data.datasets import missing_paths
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.main import main
from vacsr_jax.training.checks import check_config, fit_warmup
from vacsr_jax.training.run import set_up, with_absolute_paths
from vacsr_jax.training.workdir_lock import LOCK, hold

pytestmark = pytest.mark.usefixtures("compile_fast", "one_device")
SCENES = ["train", "--config=configs/scenes.py", "--config.data.train_size=24", "--config.data.validation_size=8"]
SCENES += ["--config.data.test_size=8"]

# What used to be found when the data had been read, or at step 1, or after the last; and what must be said.
REFUSED = {
    "train.steps=0": "train.steps: got 0, expected 1 or more",
    "train.epochs=-1": "train.epochs: got -1, expected 0 or more",
    "train.batch_size=0": "train.batch_size: got 0",
    "train.log_every=0": "train.log_every: got 0",
    "checkpoint.every=0": "checkpoint.every: got 0",
    "optim.warmup_steps=-1": "optim.warmup_steps: got -1",
    "optim.schedule=linear": "optim.schedule: got 'linear'",
    "optim.step_at=2.0": None,
    "optim.name=sgd": "optim.name: got 'sgd'",
    "optim.frozen=('nothing/*',)": "optim.frozen",
    "loss.hard=random": "loss.hard: got 'random'",
    "loss.hard_negatives=99": "loss.hard_negatives: got 99",
    "data.positives=all": "data.positives: got 'all'",
    "data.ground_truth=nowhere": "nowhere: no original_image_to_caption.json",
    "seed=-1": "seed: got -1",
}


@pytest.mark.slow
@pytest.mark.parametrize("field", [name for name, message in REFUSED.items() if message])
def test_a_refused_config_leaves_nothing_behind(field, refuse, tmp_path):
    error = refuse(*SCENES, f"--workdir={tmp_path / 'run'}", f"--config.{field}")
    assert REFUSED[field] in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_that_was_there_stays(refuse, tmp_path):
    refuse(*SCENES, f"--workdir={tmp_path}", "--config.loss.hard=random")
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("mine")
    refuse(*SCENES, f"--workdir={tmp_path}", "--config.loss.hard=random")
    assert sorted(x.name for x in tmp_path.iterdir()) == [LOCK, "notes.txt"]


def test_a_path_that_orbax_cannot_take_is_refused_before_anything_is_written(refuse, tmp_path):
    assert "give another --workdir" in refuse(*SCENES, f"--workdir={tmp_path / 'a[1]'}")
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """A process opens the lock's file, another one removes it: the first must not hold a file that nobody sees."""
    import fcntl

    flock, removed = fcntl.flock, []

    def lock(file, operation):
        flock(file, operation)
        if not removed:
            removed.append((tmp_path / LOCK).unlink())

    monkeypatch.setattr(fcntl, "flock", lock)
    with hold(tmp_path):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="is training in it"), hold(tmp_path):
            pass
    with hold(tmp_path):
        pass


# Short runs.


@pytest.mark.parametrize(
    ("given", "steps", "warmup"), [(300, 20, 4), (300, 300, 60), (300, 301, 300), (5, 3, 0), (0, 1, 0)]
)
def test_a_warmup_that_does_not_fit_is_a_fifth_of_the_run(given, steps, warmup):
    config = small_config(**{"optim.warmup_steps": given, "train.steps": steps})
    if given < steps:
        assert fit_warmup(config).optim.warmup_steps == warmup
        return
    with pytest.warns(
        UserWarning, match=f"optim.warmup_steps: {given} do not fit into {steps} steps; the warm-up takes"
    ):
        assert fit_warmup(config).optim.warmup_steps == warmup
    check_config(config)  # without a word


# The test split, and where the data are.


def draw_folder(folder, splits):
    folder.mkdir()
    lines = []
    for i, split in enumerate(splits):
        Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "text": f"number {i}", "split": split})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_no_test_split_is_said_before_training(refuse, tmp_path):
    folder = draw_folder(tmp_path / "pictures", ["train", "train", "validation"])
    config = f"--config=configs/image_folder.py:path={folder}"
    error = refuse("train", config, f"--workdir={tmp_path / 'run'}")
    assert "no image of split 'test'; expected one of train, validation (the split test is evaluated after" in error
    assert not (tmp_path / "run").exists()


def test_the_tests_of_classes_are_opened_before_training(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "mine" / split / name / "a.png")
    fields = {"data.name": "classification", "data.dataset": "mine", "data.path": str(tmp_path), "data.shots": 1}
    assert open_tests(small_config(**fields, **{"data.tests": ("test_base", "test_new")})) is None
    with pytest.raises(ValueError, match="data set 'other'"):
        open_tests(small_config(**fields, **{"data.tests": ("test_base", "other/test_all")}))
    with pytest.raises(ValueError, match="template: got 'a photo'"):
        open_tests(small_config(**fields, **{"data.template": "a photo"}))


def test_paths_are_recorded_as_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "n.npy").touch()
    (tmp_path / "shards").mkdir()
    patterns = "shards/{000..003}.tar,shards/{a,b}.tar"
    fields = {
        "data.path": f"a,{tmp_path},no_such,{patterns}",
        "data.noise_file": "n.npy",
        "model.pretrained": "openai/clip",
    }
    config = with_absolute_paths(small_config(**fields))
    absolute = [f"{tmp_path}/{x}" for x in ("shards/{000..003}.tar", "shards/{a,b}.tar")]
    assert config.data.path == ",".join([str(tmp_path / "a"), str(tmp_path), "no_such", *absolute])
    assert missing_paths(config) == []
    assert config.data.noise_file == str(tmp_path / "n.npy")
    assert config.model.pretrained == "openai/clip"
    assert config.data.tfds == ""
    (tmp_path / "a").rmdir()
    assert missing_paths(config) == [str(tmp_path / "a")]


@pytest.mark.slow
def test_a_short_run_of_a_relative_path_is_evaluated_from_another_folder(refuse, tmp_path, monkeypatch, capsys):
    """Two steps need no other field, and the run can be evaluated wherever one is."""
    folder = draw_folder(tmp_path / "pictures", ["train"] * 8 + ["validation"] * 2 + ["test"] * 3)
    config = f"--config={os.getcwd()}/configs/image_folder.py:path=pictures,method=infonce"
    fields = [f"--config.{field}" for field in ("train.steps=2", "train.batch_size=4", "model.image_size=32")]
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="300 do not fit into 2 steps") as said:
        main(["train", config, f"--workdir={tmp_path / 'run'}", *fields])
    assert len(said) == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    main(["evaluate", f"--model={tmp_path / 'run'}"])
    out = capsys.readouterr().out
    assert "images 3; captions 3; " in out
    assert "cut captions 0; " in out
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["protocol"]["cut captions"] == evaluation["cut training captions"] == 0
    folder.rename(tmp_path / "moved")
    error = refuse("evaluate", f"--model={tmp_path / 'run'}")
    assert f"its run read data at {folder}, where nothing is now; say where they are with --config.data.path" in error
    main(["evaluate", f"--model={tmp_path / 'run'}", "--config.data.path=../moved"])


@pytest.mark.slow
def test_training_captions_that_are_cut_are_counted_once(tmp_path, caplog):
    config = small_config(**{"model.context_length": 8})
    run = set_up(config, tmp_path)
    (said,) = caplog.messages
    assert "of 300 training captions are longer than the context of 8 tokens and are cut" in said
    assert run.cut == int((run.tokenizer.lengths(caption_pairs(run.pairs.source)[0]) > 8).sum()) > 0
