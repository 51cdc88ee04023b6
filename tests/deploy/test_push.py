"""`vacsr push` against a stand-in of the hub, and `load` of what it wrote."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest

import vacsr_jax
from tests.deploy.hub_stand_in import TOKEN, Hub
from vacsr_jax.deploy.hub import evaluation_text, model_card
from vacsr_jax.main import main

pytestmark = pytest.mark.slow

SAVED = Path(__file__).parents[1] / "parity" / "golden" / "format2"
WORDS = ["a red circle", "a blue square"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, in place of the hub of this process."""
    hub = Hub()
    constants = huggingface_hub.constants
    for name, value in {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_XET_CACHE": str(tmp_path / "xet"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


@pytest.fixture
def workdir(tmp_path):
    """A workdir-like folder: an export, with the evaluation of its step."""
    folder = tmp_path / "exported"
    shutil.copytree(SAVED / "vacsr", folder)
    step = vacsr_jax.load(folder).step
    metrics = {"i2t/R@1": 0.25, "t2i/R@1": 0.5, "rsum": 123.5}
    evaluation = {"step": step, "untrained": {"i2t/R@1": 0.0}, "trained": metrics, "protocol": {"dataset": "scenes"}}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def test_what_is_pushed_is_loaded_back(hub, workdir, capsys):
    main(["push", f"--model={workdir}", "--to=ada/match", "--private"])
    assert capsys.readouterr().out == f"{hub.address}/ada/match: vacsr_jax.load('ada/match')\n"
    files = hub.repositories["ada/match"]
    assert {"model.safetensors", "config.json", "evaluation.json", "README.md"} < set(files)
    assert hub.private["ada/match"]
    assert len(hub.commits["ada/match"]) == 1
    card = files["README.md"].decode()
    assert "| rsum    |         – | 123.500 |" in card
    assert 'vacsr_jax.load("ada/match")' in card
    assert "protocol: dataset scenes" in card
    here, there = vacsr_jax.load(workdir), vacsr_jax.load("ada/match")
    assert there.fingerprint() == here.fingerprint()
    assert there.config == here.config
    picture = np.zeros((20, 20, 3), np.uint8)
    np.testing.assert_array_equal(there.score([picture], WORDS).logit, here.score([picture], WORDS).logit)


def test_a_card_that_is_there_is_kept_unless_a_new_one_is_asked_for(hub, workdir, capsys):
    main(["push", f"--model={workdir}", "--to=ada/match"])
    hub.repositories["ada/match"]["README.md"] = b"my own words"
    main(["push", f"--model={workdir}", "--to=ada/match"])
    assert "its README.md is kept; --new_card replaces it" in capsys.readouterr().out
    assert hub.repositories["ada/match"]["README.md"] == b"my own words"
    main(["push", f"--model={workdir}", "--to=ada/match", "--new_card"])
    assert b"# match" in hub.repositories["ada/match"]["README.md"]


def test_what_the_hub_refuses_is_one_message(hub, workdir, refuse, monkeypatch):
    assert "--to: got 'match', expected USER/NAME" in refuse("push", f"--model={workdir}", "--to=match")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    error = refuse("push", f"--model={workdir}", "--to=ada/match")
    assert "ada/match could not be written" in error
    assert "hf auth login" in error
    assert hub.repositories == {}


def test_a_hub_that_is_not_there_is_one_message(hub, workdir, refuse, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "ada/match could not be written" in refuse("push", f"--model={workdir}", "--to=ada/match")


def test_the_evaluation_of_another_checkpoint_is_left_out(hub, workdir):
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    (workdir / "evaluation.json").write_text(json.dumps(evaluation | {"step": 12345}))
    main(["push", f"--model={workdir}", "--to=ada/match"])
    assert "evaluation.json" not in hub.repositories["ada/match"]
    assert b"None is stored with the model" in hub.repositories["ada/match"]["README.md"]


def test_the_card_of_a_classifier_has_its_accuracies():
    result = {"accuracy": 0.5, "images": 4, "label_space": {"classes": 2}, "template": "a {}."}
    text = evaluation_text({"step": 3, "untrained": {"test_all": result}, "trained": {"test_all": result}})
    assert "test_all" in text
    assert "50.00" in text
    card = model_card(vacsr_jax.load(SAVED / "sigmoid"), "ada/match", None)
    assert card.startswith("---\nlibrary_name: vacsr_jax\n")
