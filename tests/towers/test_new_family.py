"""A family of towers is one file and one line of TOWERS: this file is the one, and the tests add the line."""

from __future__ import annotations

import json
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

import vacsr_jax
from tests.parity.methods import WORDS, tokenizer
from vacsr_jax.main import main
from vacsr_jax.towers import TOWERS, TowerFamily
from vacsr_jax.towers.base import TextConfig, TowerOutput, TowersConfig, VisionConfig, normalize_pixels, valid_mask

pytestmark = pytest.mark.slow
PICTURES = np.random.default_rng(0).integers(0, 255, (2, 20, 20, 3)).astype(np.uint8)


@dataclass(frozen=True)
class BagsConfig(TowersConfig):
    def build(self, dtype, *, vision_norm=True):
        return Bags(self)


class Bags(nn.Module):
    """An image is the mean of its patches, a text the mean of its words."""

    config: BagsConfig

    def setup(self):
        c = self.config
        self.patches, self.words = nn.Dense(c.vision.width), nn.Embed(c.text.vocab_size, c.text.width)
        self.project_image, self.project_text = nn.Dense(c.embedding_dim), nn.Dense(c.embedding_dim)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.0), ())

    def vision(self, images):
        grid, size = int(self.config.vision.patches**0.5), self.config.vision.patch_size
        x = normalize_pixels(images, self.config.vision).reshape(len(images), grid, size, grid, size, 3)
        tokens = self.patches(x.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), grid * grid, -1))
        return TowerOutput(tokens, tokens.mean(axis=1), tokens, jnp.ones(tokens.shape[:2], bool))

    def text(self, ids):
        tokens, valid = self.words(ids), valid_mask(ids, self.config.text)
        pooled = (tokens * valid[..., None]).sum(axis=1) / valid.sum(axis=1, keepdims=True)
        return TowerOutput(tokens, pooled, tokens, valid)

    def touch_all(self, images, ids):
        return self.project_image(self.vision(images).pooled), self.project_text(self.text(ids).pooled)


def load_bags(folder):
    config = BagsConfig.from_dict(json.loads((folder / "config.json").read_text())["towers"])
    return config, unflatten_dict(load_file(folder / "model.safetensors"), sep="/")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pretrained weights of such towers, as Hugging Face would have them."""
    monkeypatch.setitem(TOWERS, "bags", TowerFamily(BagsConfig, load_bags))
    sizes = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 32, "pool": "mean"}
    ids = {field: getattr(tokenizer(), field) for field in ("vocab_size", "start_id", "end_id", "pad_id")}
    text = TextConfig(context_length=8, causal=False, **ids, **sizes)
    config = BagsConfig(VisionConfig(image_size=16, patch_size=8, **sizes), text, embedding_dim=12)
    shapes = (jnp.zeros((1, 16, 16, 3), jnp.uint8), jnp.ones((1, 8), jnp.int32))
    params = Bags(config).init(jax.random.key(0), *shapes, method="touch_all")["params"]
    flat = {name: np.asarray(x) for name, x in flatten_dict(params, sep="/").items()}
    folder = tmp_path / "bags"
    folder.mkdir()
    save_file(flat, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bags", "towers": config.to_dict()}))
    tokenizer().save(folder)
    return folder


def test_pretrained_towers_load_score_and_are_saved(folder, tmp_path):
    model = vacsr_jax.load(folder)
    scores = model.score(list(PICTURES), WORDS)
    assert np.isfinite(scores.logit).all()
    model.save(tmp_path / "export")
    np.testing.assert_array_equal(vacsr_jax.load(tmp_path / "export").score(list(PICTURES), WORDS).logit, scores.logit)


@pytest.mark.parametrize("method", ["sigmoid", "vacsr"])
def test_every_method_trains_on_them(method, folder, tmp_path):
    data = {"train_size": 40, "validation_size": 10, "test_size": 10}
    fields = {f"data.{name}": size for name, size in data.items()}
    fields |= {"train.steps": 2, "optim.warmup_steps": 1, "checkpoint.every": 2, "train.batch_size": 8}
    options = [f"--config.{name}={value}" for name, value in fields.items()]
    config = f"--config=configs/scenes.py:method={method}"
    main(["train", config, f"--workdir={tmp_path / 'run'}", f"--config.model.pretrained={folder}", *options])
    model = vacsr_jax.load(tmp_path / "run")
    assert isinstance(model.model.towers_config, BagsConfig)
    assert model.score(list(PICTURES), WORDS).logit.shape == (2, 5)
