"""Every verb on a SigLIP folder: the golden one, as it is and after training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vacsr_jax
from tests.data.classification.tiny_eurosat import write_eurosat
from vacsr_jax.main import main

SIGLIP = Path(__file__).parents[1] / "parity" / "golden" / "hf_siglip"
SIZES = {"data.train_size": 40, "data.validation_size": 10, "data.test_size": 10, "train.batch_size": 8}
SIZES |= {"train.steps": 2, "optim.warmup_steps": 1, "checkpoint.every": 2}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(draw.integers(0, 256, (50 + i, 60, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "texts.txt").write_text("a cat\ntwo dogs\nein Foto von Katze\n")
    return folder


def test_embed_index_search_standardize_evaluate_and_classify(pictures, tmp_path, capsys):
    model, images, texts = f"--model={SIGLIP}", f"--images={pictures}", f"--texts={pictures / 'texts.txt'}"
    main(["embed", model, images, texts, f"--out={tmp_path / 'x.npz'}"])
    main(["index", model, images, texts, f"--out={tmp_path / 'index'}"])
    capsys.readouterr()
    main(["search", f"--index={tmp_path / 'index'}", "--text=a cat", "--k=3"])
    assert "a cat" in capsys.readouterr().out
    sides = [f"--{side}={tmp_path / 'x.npz'}" for side in ("queries", "documents")]
    main(["standardize", "fit", *sides, f"--out={tmp_path / 'stats.json'}"])
    out = tmp_path / "metrics.json"
    main(["evaluate", model, "--config=configs/scenes.py", "--config.data.test_size=10", f"--out={out}"])
    metrics = json.loads(out.read_text())
    assert metrics["protocol"]["preprocess"] == "squash"
    assert 0 <= metrics["ECE"] <= 1  # its scores are probabilities
    write_eurosat(tmp_path / "data")
    main(["classify", model, f"--root={tmp_path / 'data'}", "--dataset=eurosat", f"--out={tmp_path / 'classes.json'}"])
    assert (tmp_path / "classes.json").exists()


def test_train_evaluate_and_export(tmp_path):
    options = [f"--config.{name}={value}" for name, value in SIZES.items()]
    options += [f"--config.model.pretrained={SIGLIP}", "--config.model.image_size=62"]
    main(["train", "--config=configs/scenes.py", f"--workdir={tmp_path / 'run'}", *options])
    model = vacsr_jax.load(tmp_path / "run")
    assert model.model.towers_config.vision.image_size == 62
    assert model.model.pair.residual
    main(["export", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'plain'}"])
    main(["export", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'hf'}", "--format=transformers"])
    picture = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    ours, again = model.score([picture], ["a cat"]), vacsr_jax.load(tmp_path / "plain").score([picture], ["a cat"])
    np.testing.assert_array_equal(ours.logit, again.logit)
    np.testing.assert_allclose(
        vacsr_jax.load(tmp_path / "hf").encode_texts(["a cat"]),
        model.cosine_vectors(model.encode_texts(["a cat"])) / 32**0.5,
        atol=1e-6,
    )
