"""The trained models that come with the package."""

import re
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors import safe_open

import vacsr_jax
from experiments.models.__main__ import METRICS, RECIPES, evaluation, table
from vacsr_jax import main
from vacsr_jax.atomic_files import read_json
from vacsr_jax.config_files import load_config
from vacsr_jax.data.scenes import make_scenes
from vacsr_jax.shipped_models import CARD, MODELS, shipped
from vacsr_jax.training.start import read_start

ROOT = Path(__file__).parents[1]
# On another processor a query whose two best are nearly level may turn.
ONE_QUERY = {"i2t/R@1": 0.0025, "t2i/R@1": 0.001, "rsum": 0.5}
SAVED = Path(__file__).parent / "parity/golden/format2"


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_model_has_the_numbers_that_it_is_published_with(name):
    card, again = read_json(MODELS / name / CARD), evaluation(name)
    assert (card["seed"], card["step"]) == (again["seed"], again["step"])
    for metric in METRICS.values():
        published, found = card["test"].get(metric), again["test"].get(metric)
        assert (published is None) == (found is None), metric
        if published is not None:
            assert found == pytest.approx(published, abs=ONE_QUERY.get(metric, 5e-4)), metric


def test_every_model_is_small_names_no_folder_and_has_a_recipe():
    assert set(shipped()) == set(RECIPES)
    for name in shipped():
        files = [file for file in (MODELS / name).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < 1.5e6
        values = [file.read_text(encoding="utf-8") for file in files if file.suffix == ".json"]
        assert not any(re.search(r'"(/|[A-Z]:\\|~)[\w.]', text) for text in values)
        card = read_json(MODELS / name / CARD)
        assert card["about"] == RECIPES[name].about
        assert "\n" not in card["about"]


@pytest.mark.slow
def test_a_model_loads_by_its_name_and_knows_what_is_true_of_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = vacsr_jax.load("scenes")
    scenes = make_scenes("test", 8, seed=0, facts_per_caption=(0.25, 0.4, 0.35))
    scores = model.score(list(scenes.images), [captions[0] for captions in scenes.captions])
    assert scores.probability is not None
    assert np.mean(np.argmax(scores.match_score, axis=0) == np.arange(8)) >= 0.75


def test_a_run_starts_from_a_model_by_its_name():
    start = read_start(load_config("scenes", ["--config.model.pretrained=scenes-web"]))
    assert start.config["data"]["name"] == "scene_web"
    assert start.params["towers"]["logit_scale"] > np.log(10.0)


def test_a_folder_of_the_same_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").symlink_to(SAVED / "sigmoid")
    assert vacsr_jax.load("scenes").config["method"] == "sigmoid"


def test_a_wrong_name_lists_the_models(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"'scene'.*did you mean scenes\? The models .* are scenes, .*: no network"):
        vacsr_jax.load("scene")
    with pytest.raises(ValueError, match="'ada/scene' is neither a folder nor a repository that could be fetched: no"):
        vacsr_jax.load("ada/scene")


def test_the_command_lists_the_models(capsys):
    main.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped()
    assert lines[0].endswith(read_json(MODELS / shipped()[0] / CARD)["about"])


def test_the_page_has_the_numbers_and_the_commands():
    page = (ROOT / "vacsr_jax/models/README.md").read_text(encoding="utf-8")
    assert table() in page
    for name in shipped():
        for command in read_json(MODELS / name / CARD)["commands"]:
            assert command in page


def test_half_precision_rounds_the_parameters_and_loads_as_float32(tmp_path, capsys):
    main.main(["export", f"--model={SAVED / 'vacsr'}", f"--out={tmp_path / 'half'}", "--half"])
    whole, half = vacsr_jax.load(SAVED / "vacsr"), vacsr_jax.load(tmp_path / "half")
    for x, y in zip(*(leaves(model.params) for model in (whole, half)), strict=True):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, x.astype(np.float16).astype(np.float32))
    with safe_open(tmp_path / "half" / "model.safetensors", framework="numpy") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}  # noqa: SIM118


def test_half_precision_refuses_what_it_cannot_hold(tmp_path, capsys):
    model = vacsr_jax.load(SAVED / "vacsr")
    model.params["towers"]["logit_scale"] = np.float32(1e5)
    with pytest.raises(ValueError, match="towers/logit_scale: got a parameter of 100000, too large for float16"):
        model.save(tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()
    with pytest.raises(SystemExit):
        main.main(["export", f"--model={SAVED / 'vacsr'}", f"--out={tmp_path}", "--half", "--format=onnx"])
    assert "--half: got it with --format=onnx" in capsys.readouterr().err


def leaves(params):
    return (
        [leaf for _, value in sorted(params.items()) for leaf in leaves(value)]
        if isinstance(params, dict)
        else [np.asarray(params)]
    )
