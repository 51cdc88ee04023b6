"""SigLIP's files: published sizes, what is refused, and what a loaded model does."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import vacsr_jax
from vacsr_jax.towers import TOWERS, load_towers
from vacsr_jax.towers.base import check_tokens, longest_text, valid_mask
from vacsr_jax.towers.clip import CLIP, CLIPConfig
from vacsr_jax.towers.clip_weights import save_hf_clip
from vacsr_jax.towers.positions import at_image_size, cubic_weights
from vacsr_jax.towers.siglip import layout, load_hf_siglip, read_siglip_config, save_hf_siglip
from vacsr_jax.towers.weights import leaf_shapes

pytestmark = pytest.mark.usefixtures("compile_fast")
GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "hf_siglip"

WIDTHS = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
WIDTHS |= {"so400m": (1152, 27, 16, 4304), "giant": (1536, 40, 16, 6144)}
# (size, patch, pixels, words, context): parameters and position ids, as keras-hub publishes them for Google's weights.
PUBLISHED = {
    ("base", 16, 224, 32000, 64): 203_156_230,
    ("large", 16, 384, 32000, 64): 652_479_106,
    ("so400m", 14, 224, 32000, 16): 877_360_578,
    ("so400m", 14, 384, 32000, 64): 877_961_291,
    ("base", 32, 256, 256000, 64): 376_856_194,
    ("base", 16, 224, 256000, 64): 375_188_230,
    ("so400m", 14, 384, 256000, 64): 1_136_009_291,
    ("giant", 16, 256, 256000, 64): 1_871_394_226,
}


def hf_config(size, patch, pixels, words, context):
    """config.json as on the hub. The text tower of the giant is that of so400m."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = dict(zip(names, WIDTHS[size], strict=True)) | {"image_size": pixels, "patch_size": patch}
    text = dict(zip(names, WIDTHS["so400m" if size == "giant" else size], strict=True))
    text |= {"vocab_size": words, "max_position_embeddings": context, "projection_size": WIDTHS[size][0]}
    return {"model_type": "siglip", "text_config": text, "vision_config": vision}


@pytest.mark.parametrize("size", [pytest.param(x, marks=pytest.mark.slow) for x in PUBLISHED], ids=str)
def test_published_sizes(size, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(hf_config(*size)))
    config = read_siglip_config(tmp_path)
    shapes = leaf_shapes(config)
    leaves = [leaf for stored in layout(config).values() for leaf in stored.leaves]
    assert sorted(leaves) == sorted(shapes)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert count + config.vision.patches + config.text.context_length == PUBLISHED[size]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "siglip"))


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) and isinstance(values.get(key), dict) else value
    path.write_text(json.dumps(values))


REFUSED = {
    "NaFlex": ({"model_type": "siglip2"}, r"model_type is 'siglip2', a NaFlex variant, .* load the variant of fixed"),
    "no head": ({"vision_config": {"vision_use_head": False}}, "vision_use_head is False, expected true"),
    "channels": ({"vision_config": {"num_channels": 1}}, "num_channels is 1, expected 3"),
    "epsilons": ({"vision_config": {"layer_norm_eps": 1e-5}}, "layer_norm_eps differ"),
    "widths": ({"text_config": {"projection_size": 20}}, "embedding_dim: got 20, expected the image tower's width, 32"),
    "no towers": ({"text_config": 3}, "text_config and vision_config: expected an object for each"),
    "patch": ({"vision_config": {"patch_size": 60}}, "patch_size: got 60, which is larger than image_size, 38"),
    "another kind": ({"model_type": "blip"}, "model_type is 'blip', expected one of clip, siglip, open_clip"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, folder):
    changes, message = REFUSED[what]
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_towers(folder)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_tokenizer_with_added_tokens_is_refused(folder):
    """They have no embedding: a lookup beyond the table would give a finite, meaningless text."""
    import tokenizers

    (folder / "spiece.model").unlink()
    for file in (GOLDEN / "second").iterdir():
        shutil.copy(file, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = backend.get_vocab_size()
    config, params = load_hf_siglip(folder)
    text = dataclasses.replace(config.text, vocab_size=words)
    params["text"]["token_embedding"] = np.zeros((words, config.text.width), np.float32)
    save_hf_siglip(folder, dataclasses.replace(config, text=text), params)
    assert vacsr_jax.load(folder).tokenizer(["a dog"]).shape == (1, 12)
    backend.add_tokens(["zyzzyva", "quux"])
    backend.save(str(folder / "tokenizer.json"))
    message = f"it has ids up to {words + 1}, the tower {words} token embeddings, none for 'quux', 'zyzzyva'; use the"
    with pytest.raises(ValueError, match=message):
        vacsr_jax.load(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("spiece.model", r"no tokenizer\.json and no spiece\.model; fetch"),
        ("model.safetensors", r"no model\.safetensors"),
    ],
)
def test_missing_files_are_named(missing, message, folder):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=message):
        vacsr_jax.load(folder)


def test_every_misfit_is_listed(folder):
    edit_json(folder / "config.json", text_config={"num_hidden_layers": 3})
    with pytest.raises(ValueError, match="do not fit the config") as error:
        load_towers(folder)
    assert "unfilled leaf: text/transformer/block_2/mlp_in/kernel (no tensor text_model.encoder.layers.2" in str(
        error.value
    )


def test_a_row_must_be_full_and_pads_count():
    config = load_hf_siglip(GOLDEN)[0].text
    tokens = np.array([[5, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    check_tokens(tokens, config)
    assert longest_text(tokens, config) == 12
    np.testing.assert_array_equal(np.asarray(valid_mask(tokens, config)).sum(axis=1), [3])
    with pytest.raises(ValueError, match="got length 3, expected 12; this tower pools the last token of a full row"):
        check_tokens(tokens[:, :3], config)


def test_clip_and_siglip_refuse_to_be_written_as_each_other(tmp_path):
    siglip, params = load_hf_siglip(GOLDEN)
    with pytest.raises(ValueError, match=r"CLIP cannot express this config: vision\.pool must be 'cls'"):
        save_hf_clip(tmp_path, siglip, params)
    clip = dataclasses.replace(siglip, logit_bias=False)
    with pytest.raises(ValueError, match="SigLIP cannot express this config: there must be a logit_bias"):
        save_hf_siglip(tmp_path, clip, params)
    assert not list(tmp_path.iterdir())


def test_the_config_survives_its_description():
    config = load_hf_siglip(GOLDEN)[0]
    assert CLIPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TOWERS["siglip"].config is TOWERS["clip"].config


@pytest.mark.slow
def test_gradients_reach_every_parameter():
    config, params = load_hf_siglip(GOLDEN)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 38, 38, 3)).astype(np.float32)
    tokens = rng.integers(2, 99, (2, 12)).astype(np.int32)

    def loss(params):
        v, t = CLIP(config).apply({"params": params}, images, tokens)
        return (v * t).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    still = {"logit_scale", "logit_bias"}  # the pair model's copies learn
    flat = {"/".join(str(k.key) for k in path): np.abs(x).max() for path, x in jax.tree.leaves_with_path(gradients)}
    assert {name for name, largest in flat.items() if largest == 0} - {"text/token_embedding"} == still


def test_cubic_weights_are_those_of_the_kernel():
    """Keys' kernel with a = -.75, written out for one place; constant and linear functions are kept inside."""
    weights = cubic_weights(8, 16)
    t = 0.25  # place 5.25 lies a quarter after sample 5
    row = weights[11]
    a = -0.75
    far, near = (lambda x: a * (x**3 - 5 * x**2 + 8 * x - 4)), (lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1)
    np.testing.assert_allclose(row[4:8], [far(1 + t), near(t), near(1 - t), far(2 - t)], atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(cubic_weights(5, 5), np.eye(5), atol=1e-12)


def test_towers_without_positions_are_refused_for_another_size():
    config, _ = load_hf_siglip(GOLDEN)
    with pytest.raises(ValueError, match="got 50, but these towers have no position embeddings to resample"):
        at_image_size(config, {"vision": {}}, 50)
