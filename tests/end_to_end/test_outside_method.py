"""A method in a package of its own: the tutorial of experiments/extending, from `vacsr train` to another process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vacsr_jax
from vacsr_jax.main import main

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "experiments" / "extending" / "late_interaction.py"
NAME = "my_package.my_module:MyMethod"
SIZES = {
    "train.steps": 4,
    "train.batch_size": 16,
    "optim.warmup_steps": 2,
    "checkpoint.every": 2,
    "data.train_size": 60,
    "data.validation_size": 10,
    "data.test_size": 20,
}
SHRUNK = [f"--config.{field}={value}" for field, value in SIZES.items()]
TRAIN = ["train", f"--config={ROOT / 'configs' / 'scenes.py'}", *SHRUNK]
IMAGES = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
TEXTS = ["a red circle", "a blue square left of a star"]
SCORE = f"""
import numpy as np, vacsr_jax
images = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
print(vacsr_jax.load("export").score(images, {TEXTS}).logit.tolist())
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compile_fast, one_device):
    """Holds my_package, a run of its method, and the export of the run."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_package").mkdir()
    shutil.copy(TUTORIAL, folder / "my_package" / "my_module.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        main([*TRAIN, f"--config.method={NAME}", f"--workdir={folder / 'run'}"])
        main(["evaluate", f"--model={folder / 'run'}", f"--out={folder / 'metrics.json'}"])
        main(["export", f"--model={folder / 'run'}", f"--out={folder / 'export'}"])
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def score_elsewhere(folder, *paths):
    """Scores of the export in another process that finds modules in `paths` too."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))}
    command = [sys.executable, "-c", SCORE]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


def test_the_tutorial_is_short():
    assert len(TUTORIAL.read_text().splitlines()) < 60


def test_it_is_evaluated_as_it_was_after_training(folder):
    trained = json.loads((folder / "run" / "evaluation.json").read_text())["trained"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {name: metrics[name] for name in trained} == trained


def test_run_and_export_name_it_and_score_the_same(folder):
    run, export = vacsr_jax.load(folder / "run"), vacsr_jax.load(folder / "export")
    assert run.config["method"] == export.config["method"] == NAME
    assert type(export.model.pair).__module__ == "my_package.my_module"
    scores = run.score(IMAGES, TEXTS)
    assert np.isfinite(scores.logit).all()
    assert scores.uncertainty is None
    np.testing.assert_array_equal(scores.logit, export.score(IMAGES, TEXTS).logit)
    np.testing.assert_array_equal(scores.probability, export.score(IMAGES, TEXTS).probability)


def test_another_process_that_finds_the_package_loads_it(folder):
    done = score_elsewhere(folder, folder)
    assert done.returncode == 0, done.stderr
    ours = vacsr_jax.load(folder / "export").score(IMAGES, TEXTS).logit
    np.testing.assert_allclose(json.loads(done.stdout), ours, rtol=1e-5)


def test_another_process_that_does_not_find_it_names_the_module(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "export").symlink_to(folder / "export")
    done = score_elsewhere(folder / "empty")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("ValueError")]
    assert "my_package.my_module:TokenModel: No module named 'my_package'" in error
    assert "put its folder on PYTHONPATH" in error


REFUSED = {
    "os:PathLike": "a module of Python's standard library is not imported by name",
    "os.path:join": "a module of Python's standard library is not imported by name",
    "antigravity:Method": "a module of Python's standard library is not imported by name",
    ":MyMethod": "expected my_package.my_module:Name",
    "my_package:": "expected my_package.my_module:Name",
    "my_package.my_module:TokenModel": "got <class 'my_package.my_module.TokenModel'>, expected a Method",
    "my_package.my_module:Nothing": "my_package.my_module has no Nothing",
    "my_package.nothing:MyMethod": "No module named 'my_package.nothing'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_method_is_refused(name, folder, tmp_path, refuse):
    error = refuse(*TRAIN, f"--config.method={name}", f"--workdir={tmp_path / 'run'}")
    assert name in error
    assert REFUSED[name] in error
    assert "antigravity" not in sys.modules


def test_a_description_cannot_import_the_standard_library(folder, tmp_path):
    shutil.copytree(folder / "export", tmp_path / "export")
    description = json.loads((tmp_path / "export" / "config.json").read_text())
    description["vacsr_jax"]["pair"]["type"] = "antigravity:TokenModel"
    (tmp_path / "export" / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="'antigravity:TokenModel': a module of Python's standard library"):
        vacsr_jax.load(tmp_path / "export")
    assert "antigravity" not in sys.modules


def test_the_loss_and_the_config_of_the_tutorial_train(folder):
    text = (ROOT / "experiments" / "extending" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (config,) = [block for block in blocks if "def get_config" in block]
    (loss,) = [block for block in blocks if "BRIER = Method" in block]
    (folder / "my_package" / "my_config.py").write_text(config)
    (folder / "my_package" / "my_loss.py").write_text(loss)
    options = [f"--config={folder / 'my_package' / 'my_config.py'}", "--config.mine.weight=3.0", *SHRUNK]
    main(["train", *options, f"--workdir={folder / 'brier'}"])
    model = vacsr_jax.load(folder / "brier")
    assert model.config["method"] == "my_package.my_loss:BRIER"
    assert model.config["mine"] == {"weight": 3.0}
    assert model.score(IMAGES, TEXTS).probability is not None
