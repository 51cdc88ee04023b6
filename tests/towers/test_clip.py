"""CLIP in Linen: sizes, poolings, masks and precision. The tiny one learns its batch."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vacsr_jax.towers.base import TextConfig, VisionConfig, check_tokens, valid_mask
from vacsr_jax.towers.clip import CLIP, CLIPConfig, normalize_patches, to_patches
from vacsr_jax.towers.presets import PRESETS

PARAMETERS = {
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14-336": 427_944_193,
    "tiny": 592_705,
    "tiny/8": 520_513,
}
TINY = PRESETS["tiny"]
# The tiny towers with CLIP's own pooling, masking and activation.
CLS = CLIPConfig(
    vision=dataclasses.replace(
        TINY.vision, pool="cls", patch_normalization=False, activation="quick_gelu", patch_size=8
    ),
    text=dataclasses.replace(TINY.text, pool="end", causal=True, activation="quick_gelu"),
    embedding_dim=24,
)


def make_batch(config, n=4, seed=0):
    rng = np.random.default_rng(seed)
    size, text = config.vision.image_size, config.text
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(10, text.vocab_size, (n, text.context_length)).astype(np.int32)
    tokens[:, 0] = text.start_id
    for row in range(n):
        end = 5 + row % 8
        tokens[row, end] = text.end_id
        tokens[row, end + 1 :] = text.pad_id
    return images, tokens


def shapes_of(config):
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    return jax.eval_shape(CLIP(config).init, jax.random.key(0), images, tokens)


# Compiled once for each config and method.
@partial(jax.jit, static_argnames=("model", "method", "normalize"))
def run(model, variables, *inputs, method=None, normalize=None):
    options = {} if normalize is None else {"normalize": normalize}
    return model.apply(variables, *inputs, method=method, **options)


@pytest.fixture(scope="module", params=["tiny", pytest.param("cls", marks=pytest.mark.slow)])
def clip(request):
    """A config, its model, and random parameters (numpy's: the model's own take seconds to compile)."""
    config = {"tiny": TINY, "cls": CLS}[request.param]
    rng = np.random.default_rng(0)

    def draw(x):
        values = rng.normal(size=x.shape) * x.shape[0] ** -0.5 if x.ndim > 1 else np.ones(x.shape)
        return values.astype(np.float32)

    return config, CLIP(config), jax.tree.map(draw, shapes_of(config))


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x != "tiny" else x for x in PARAMETERS])
def test_parameter_counts(name):
    assert set(PARAMETERS) == set(PRESETS)
    shapes = shapes_of(PRESETS[name])
    assert sum(x.size for x in jax.tree.leaves(shapes)) == PARAMETERS[name]
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_feature_shapes(clip):
    config, model, variables = clip
    images, tokens = make_batch(config)
    image = run(model, variables, images, method="image_features")
    text = run(model, variables, tokens, method="text_features")
    v, t = config.vision, config.text
    assert image.tokens.shape == (4, (v.image_size // v.patch_size) ** 2 + (v.pool == "cls"), v.width)
    assert text.tokens.shape == (4, t.context_length, t.width)
    for features, width in ((image, v.width), (text, t.width)):
        assert features.pooled.shape == (4, width)
        assert features.embedding.shape == (4, config.embedding_dim)
    called = run(model, variables, images, tokens)
    np.testing.assert_allclose(called[0], image.embedding, atol=1e-5)
    np.testing.assert_allclose(called[1], text.embedding, atol=1e-5)


def test_pooling_is_what_the_config_says(clip):
    config, model, variables = clip
    images, tokens = make_batch(config)
    image = run(model, variables, images, method="image_features")
    text = run(model, variables, tokens, method="text_features")
    if config.vision.pool == "cls":
        np.testing.assert_array_equal(image.pooled, image.tokens[:, 0])
        np.testing.assert_array_equal(text.pooled, text.tokens[np.arange(4), 5 + np.arange(4)])
    else:
        np.testing.assert_allclose(image.pooled, image.tokens.mean(1), atol=1e-6)
        expected = [row[: 6 + i].mean(0) for i, row in enumerate(np.asarray(text.tokens))]
        np.testing.assert_allclose(text.pooled, expected, atol=1e-5)


@pytest.mark.slow
def test_normalize_is_asked_for_and_gives_unit_length(clip):
    config, model, variables = clip
    for values, method in zip(make_batch(config), ("encode_image", "encode_text"), strict=True):
        raw = run(model, variables, values, normalize=False, method=method)
        unit = run(model, variables, values, normalize=True, method=method)
        np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=-1, keepdims=True), atol=1e-6)
        assert np.abs(np.linalg.norm(raw, axis=-1) - 1).min() > 0.01
        with pytest.raises(TypeError, match="normalize"):
            run(model, variables, values, method=method)


def test_text_behind_the_end_does_not_matter(clip):
    config, model, variables = clip
    _, tokens = make_batch(config)
    encode = lambda t: run(model, variables, t, normalize=False, method="encode_text")  # noqa: E731
    short = tokens[:, :10]
    np.testing.assert_allclose(encode(short), encode(tokens), atol=1e-5)
    if config.text.pool == "end":
        other = tokens.copy()
        other[:, 12:] = 7
        np.testing.assert_allclose(encode(other), encode(tokens), atol=1e-5)
    earlier = tokens.copy()
    earlier[:, 2] = 7
    assert np.abs(encode(earlier) - encode(tokens)).min(axis=0).max() > 1e-4


def test_valid_mask_ends_where_the_text_ends():
    for config in (TINY.text, CLS.text):
        _, tokens = make_batch(TINY)
        expected = np.arange(20) < 6 + np.arange(4)[:, None]
        np.testing.assert_array_equal(valid_mask(tokens, config), expected)
    # CLIP pads with the end token itself.
    same = dataclasses.replace(CLS.text, pad_id=2)
    tokens = np.where(tokens == 0, 2, tokens)
    np.testing.assert_array_equal(valid_mask(tokens, same), expected)


def test_bytes_are_normalized_and_floats_are_not(clip):
    config, model, variables = clip
    images, _ = make_batch(config)
    floats = (images / 255.0 - config.vision.pixel_mean) / config.vision.pixel_std
    encode = lambda x: run(model, variables, x, normalize=True, method="encode_image")  # noqa: E731
    np.testing.assert_allclose(encode(floats.astype(np.float32)), encode(images), atol=1e-5)
    assert np.abs(encode(images.astype(np.float32)) - encode(images)).max() > 0.01


def test_patch_matmul_is_the_convolution():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 24, 24, 3)).astype(np.float32)
    kernel = rng.normal(size=(8, 8, 3, 5)).astype(np.float32)
    conv = jax.lax.conv_general_dilated(pixels, kernel, (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    ours = to_patches(jnp.asarray(pixels), 8).reshape(2, 9, -1) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(ours, conv.reshape(2, 9, 5), atol=1e-4)


def test_patch_normalization_formula():
    patches = np.random.default_rng(0).uniform(size=(2, 4, 16, 3)).astype(np.float32)
    flat = np.asarray(normalize_patches(jnp.asarray(patches)))
    patch = patches[1, 2]
    expected = (patch - patch.mean(0)) / ((patch - patch.mean(0)).std() + 0.05)
    np.testing.assert_allclose(flat[1, 2, :-3], expected.reshape(-1), atol=1e-4)
    np.testing.assert_allclose(flat[1, 2, -3:], patch.mean(0), atol=1e-6)
    slope = jax.grad(lambda x: normalize_patches(x).sum())(jnp.ones((1, 1, 4, 3)))
    assert np.isfinite(slope).all(), "a flat patch has no gradient"


@pytest.mark.slow
def test_bfloat16_computes_close_to_float32(clip):
    config, model, variables = clip
    images, tokens = make_batch(config)
    half = CLIP(config, dtype=jnp.bfloat16)
    for inputs, method in ((images, "image_features"), (tokens, "text_features")):
        features = jax.eval_shape(lambda v, x, m=method: half.apply(v, x, method=m), variables, inputs)
        assert [x.dtype for x in features] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for full, low in zip(run(model, variables, images, tokens), run(half, variables, images, tokens), strict=True):
        assert low.dtype == jnp.float32
        cosine = np.sum(full * low, -1) / np.linalg.norm(full, axis=-1) / np.linalg.norm(low, axis=-1)
        assert cosine.min() > 0.999
        assert np.abs(full - low).max() > 1e-5, "this was not computed in bfloat16"


@pytest.mark.slow
def test_tiny_learns_its_batch():
    model, (images, tokens) = CLIP(TINY), make_batch(TINY, n=16)
    optimizer = optax.adamw(1e-3)

    def loss_of(params):
        image, text = model.apply(params, images, tokens)
        logits = 10 * (image / jnp.linalg.norm(image, axis=-1, keepdims=True)) @ text.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(16)).mean()

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def train(key):
        params = model.init(key, images, tokens)
        return jax.lax.scan(step, (params, optimizer.init(params)), length=40)[1]

    with jax.numpy_dtype_promotion("standard"):  # optax's adamw raises a float to an int
        losses = train(jax.random.key(0))
    assert losses[0] > 1
    assert losses[-1] < 0.1


def test_wrong_shapes_are_refused(clip):
    _, model, variables = clip
    with pytest.raises(ValueError, match=r"images: got shape \[2, 16, 16, 3\], expected \[b, 32, 32, 3\]"):
        model.apply(variables, np.zeros((2, 16, 16, 3), np.uint8), method="image_features")
    with pytest.raises(ValueError, match="got length 21, expected 20 at most"):
        model.apply(variables, np.ones((2, 21), np.int32), method="text_features")


def test_check_tokens():
    _, tokens = make_batch(CLS)
    check_tokens(tokens, CLS.text)
    check_tokens(tokens[:0], CLS.text)
    with pytest.raises(ValueError, match="expected integers"):
        check_tokens(tokens.astype(float), CLS.text)
    with pytest.raises(ValueError, match="got length 21"):
        check_tokens(np.ones((1, 21), int), CLS.text)
    with pytest.raises(ValueError, match=r"expected \[0, 512\)"):
        check_tokens(np.full((1, 20), 512), CLS.text)
    with pytest.raises(ValueError, match="expected"):
        check_tokens(np.full((1, 20), -1), CLS.text)
    with pytest.raises(ValueError, match=r"row 2 has no end token \(2\)"):
        check_tokens(np.where((np.arange(4) == 2)[:, None], 5, tokens), CLS.text)
    with pytest.raises(ValueError, match="row 1 has nothing but pads"):
        check_tokens(np.where((np.arange(4) == 1)[:, None], 0, tokens), TINY.text)


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name):
    config = PRESETS[name]
    again = CLIPConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_config_names_what_is_wrong():
    values = TINY.to_dict()
    values["vision"]["patchsize"] = values["vision"].pop("patch_size")
    with pytest.raises(ValueError, match="unknown key 'patchsize'; did you mean 'patch_size'"):
        CLIPConfig.from_dict(values)
    with pytest.raises(ValueError, match="missing vision, text"):
        CLIPConfig.from_dict({"embedding_dim": 3})
    with pytest.raises(ValueError, match=r"TextConfig.pool: got 'cls', expected one of \('end', 'mean', 'last'\)"):
        dataclasses.replace(TINY.text, pool="cls")
    with pytest.raises(ValueError, match="activation: got 'relu'"):
        dataclasses.replace(TINY.vision, activation="relu")
    with pytest.raises(ValueError, match="heads: got 3, expected a divisor of width"):
        dataclasses.replace(TINY.vision, heads=3)
    with pytest.raises(ValueError, match="patch_size: got 16, expected a divisor of image_size, which is 30"):
        dataclasses.replace(TINY.vision, image_size=30)
    with pytest.raises(ValueError, match="end_id: got 600, expected an id below 512"):
        dataclasses.replace(TINY.text, end_id=600)
    with pytest.raises(ValueError, match="pad id of its own"):
        dataclasses.replace(TINY.text, pad_id=2)


def test_configs_cannot_be_changed_in_place():
    assert isinstance(TINY.vision, VisionConfig)
    assert isinstance(TINY.text, TextConfig)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.vision.width = 3
