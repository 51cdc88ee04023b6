"""Embeddings in batches: what is computed for a small call, and that neither padding nor cutting changes a result."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from tests.parity import methods
from tests.small_models import random_like
from vacsr_jax.image_text import ImageTextModel, abstract_params
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.scoring import embed
from vacsr_jax.scoring.model import score_pairs
from vacsr_jax.towers.base import TextConfig, longest_text
from vacsr_jax.towers.presets import PRESETS

pytestmark = pytest.mark.usefixtures("compile_fast")
CONTEXT = PRESETS["tiny"].text


@pytest.mark.parametrize(
    ("rows", "shapes"),
    [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (200, [256]), (256, [256]), (257, [256, 1]), (300, [256, 64])],
)
def test_batch_is_padded_to_the_next_power_of_two_only(monkeypatch, rows, shapes):
    # A call of one item must cost one item: padded to 256, a query through a real CLIP took minutes.
    seen = []

    def encode(params, batch, model, method):
        seen.append(len(batch))
        return jax.numpy.asarray(batch, np.float32)

    monkeypatch.setattr(embed, "_encode", encode)
    tokens = np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)
    found = embed.embed_texts(types.SimpleNamespace(towers_config=PRESETS["tiny"]), {}, tokens, shorten=False)
    assert seen == shapes
    np.testing.assert_array_equal(found, tokens)


def test_lengths_that_rows_are_cut_to():
    assert embed.text_lengths(dataclasses.replace(CONTEXT, context_length=77)) == [8, 16, 32, 64, 77]
    assert embed.text_lengths(dataclasses.replace(CONTEXT, context_length=64)) == [8, 16, 32, 64]
    assert embed.text_lengths(dataclasses.replace(CONTEXT, context_length=7)) == [7]


def test_the_longest_text():
    tokens = np.array([[1, 5, 2, 0, 0], [1, 5, 6, 2, 0]])
    assert longest_text(tokens, CONTEXT) == 4
    assert longest_text(np.zeros((1, 3), int), CONTEXT) == 1
    ends = dataclasses.replace(CONTEXT, pool="end", causal=True, end_id=2, pad_id=2)  # CLIP pads with its end token
    assert longest_text(np.array([[1, 5, 2, 2, 2], [1, 2, 2, 2, 2]]), ends) == 3


TEXTS = {
    "masked, mean": {"pool": "mean", "causal": False},
    "causal, end": {"pool": "end", "causal": True},
    "masked, end": {"pool": "end", "causal": False},
}


@pytest.mark.parametrize("kind", TEXTS)
def test_cutting_pads_changes_no_embedding(kind):
    tokenizer = methods.tokenizer()
    sizes = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32, "context_length": 24}
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    towers = dataclasses.replace(PRESETS["tiny"], text=TextConfig(**sizes, **ids, **TEXTS[kind]))
    model = ImageTextModel(towers, CosineModel(None))
    params = random_like(abstract_params(model), np.random.default_rng(0), scale=0.3)
    tokens = dataclasses.replace(tokenizer, context_length=24)(["a red circle", "a small star", "a"])
    assert longest_text(tokens, towers.text) in range(9, 16)
    whole = embed.embed_texts(model, params, tokens, shorten=False)
    np.testing.assert_allclose(embed.embed_texts(model, params, tokens), whole, atol=1e-6)
    for i in range(len(tokens)):
        np.testing.assert_allclose(embed.embed_texts(model, params, tokens[i : i + 1])[0], whole[i], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcmepp, GPO", "propensity, vacsr", "outside"])
def test_cutting_pads_changes_no_score(name):
    _, model = methods.model_of(name)
    params, tokens = methods.params_of(name), methods.tokenizer()(["a", "red"])
    longest = longest_text(tokens, model.towers_config.text)
    assert longest < tokens.shape[1]
    short = embed._encode(params, tokens[:, :longest], model, "encode_text")
    whole = embed.embed_texts(model, params, tokens, shorten=False)
    images = embed._encode(params, methods.batch()["images"], model, "encode_image")
    images, short = jax.device_get((images, short))
    found, expected = (score_pairs(model, params, images, texts).logit for texts in (short, whole))
    np.testing.assert_allclose(found, expected, atol=1e-5)
