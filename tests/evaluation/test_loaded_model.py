"""Evaluating a loaded model on data, as the verbs do."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from vacsr_jax.data.classification.source import open_classes
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.evaluation import loaded_model
from vacsr_jax.evaluation.classification import Classified


def test_classes_are_evaluated_with_the_models_own_preprocessing(monkeypatch, tmp_path):
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            file = tmp_path / "wide" / split / name / "0.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)).save(file)
    source = open_classes("wide", tmp_path, "test_all")
    seen = []

    def classify(model, params, source, tokenize, resize, template):
        seen.append(resize(source.image(0)))
        return Classified(np.eye(2), source.labels, ["cat", "dog"])

    def squash(image):
        return preprocess(image, image_size=8, resize="squash")

    monkeypatch.setattr(loaded_model, "classify", classify)
    model = SimpleNamespace(model=None, params=None, tokenizer=None, preprocess=squash)
    assert loaded_model.evaluate_classes(model, source, "single")["accuracy"] == 1
    np.testing.assert_array_equal(seen[0], squash(source.image(0)))
    assert (seen[0] != preprocess(source.image(0), image_size=8)).any()
