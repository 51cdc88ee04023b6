"""`vacsr calibrate`: labelled pairs of embeddings and of pictures, image-text pairs, and what it refuses."""

import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

import vacsr_jax
from tests.small_models import untrained
from vacsr_jax.cli.calibrate import open_pairs
from vacsr_jax.config_files import load_config
from vacsr_jax.main import main
from vacsr_jax.training.checkpoint import config_to_dict

N = 60


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, 12)).astype(np.float32)
    ids = np.array([f"i{k}" for k in range(N)])
    texts = images + 0.8 * rng.normal(size=images.shape).astype(np.float32)
    np.savez(tmp_path / "p.npz", image_embeddings=images, text_embeddings=texts, image_ids=ids)
    return tmp_path / "p.npz"


def write_labels(path, lines):
    path.write_text("image,text,match\n" + "\n".join(lines) + "\n")
    return path


def test_labelled_pairs_of_embeddings_give_their_cosine_a_probability(pairs, tmp_path, capsys):
    lines = [f"i{k},{k},1" for k in range(N)] + [f"i{k},{(k + 1) % N},0" for k in range(N)]
    labels = write_labels(tmp_path / "l.csv", lines)
    main(["calibrate", f"--embeddings={pairs}", f"--labels={labels}", f"--out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "120 labelled pairs, 60 of them labelled a match" in printed
    assert "note:" not in printed
    model = vacsr_jax.load(tmp_path / "out")
    with np.load(pairs) as file:
        images, texts = file["image_embeddings"], file["text_embeddings"]
    p = model.score(images, texts).probability
    assert p.diagonal().mean() > 0.8
    assert p[~np.eye(N, dtype=bool)].mean() < 0.2
    assert model.meaning.probability == "that the pair is a match, calibrated on 120 labelled pairs"
    a, b = (json.loads((tmp_path / "out/calibration.json").read_text())[x] for x in ("slope", "intercept"))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)]
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-(a * unit[0] @ unit[1].T + b))), atol=1e-3)
    few = write_labels(tmp_path / "few.csv", lines[:5] + lines[-5:])
    main(["calibrate", f"--embeddings={pairs}", f"--labels={few}", f"--out={tmp_path / 'few'}"])
    assert "note: only 5 matches: give 50 or more" in capsys.readouterr().out


@pytest.mark.slow
def test_pairs_alone_and_a_model_of_pictures(pairs, tmp_path, capsys):
    main(["calibrate", f"--embeddings={pairs}", f"--out={tmp_path / 'out'}"])
    assert "wrong labels: " in capsys.readouterr().out
    folder = tmp_path / "model"
    untrained().save(folder)
    options = ["--config=configs/scenes.py", "--config.data.validation_size=12"]
    main(["calibrate", f"--model={folder}", *options])
    loaded = vacsr_jax.load(folder)
    assert loaded.calibration is not None
    assert "calibrated on" in loaded.meaning.probability
    main(["evaluate", f"--model={folder}", "--config=configs/scenes.py", "--config.data.test_size=8"])


BAD = {
    "columns": ("a,b\n", "no column image, match, text; expected image,text,match"),
    "a match": ("image,text,match\ni0,0,1\ni1,1,yes\n", "line 3: got ['i1', '1', 'yes'], expected image,text,1 or 0"),
    "nothing": ("image,text,match\n", "no pair; give a few hundred"),
    "an id": ("image,text,match\nx,0,1\n", "image 'x' is not in"),
    "a row": ("image,text,match\ni0,60,1\n", "text '60' is not in"),
    "one kind": ("image,text,match\ni0,0,1\n", "1 of 1 pairs are matches, expected some of both kinds"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_named(case, pairs, tmp_path, refuse):
    content, message = BAD[case]
    (tmp_path / "l.csv").write_text(content)
    said = refuse("calibrate", f"--embeddings={pairs}", f"--labels={tmp_path / 'l.csv'}", f"--out={tmp_path / 'out'}")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said(pairs, refuse):
    assert "give --model, or --embeddings=FILE" in refuse("calibrate")
    assert "--out: missing" in refuse("calibrate", f"--embeddings={pairs}")
    assert "leave --config out" in refuse("calibrate", f"--embeddings={pairs}", "--config=configs/scenes.py", "--out=x")


def test_the_data_of_a_model_that_an_older_version_trained():
    older = config_to_dict(load_config("scenes", []))
    del older["data"]["absent"]
    options = Namespace(embeddings=None, config=None, split="test", model="older")
    source = open_pairs(SimpleNamespace(config=older), options, ["--config.data.test_size=3"])
    assert len(source) == 3
