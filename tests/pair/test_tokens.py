"""Token matching by hand in float64, its masks, limits and grids, and its gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit, logsumexp

from configs import scenes
from tests.small_models import check_gradient, gelu, random_like
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.losses.contrastive import sigmoid
from vacsr_jax.ops.pairwise import map_pairs
from vacsr_jax.pair.tokens import PLACES, Claims, Places, TokensModel, TokensScorer, coarser, ordered_pairs
from vacsr_jax.scoring.embed import embed_texts, text_lengths
from vacsr_jax.scoring.pairs import score_candidates
from vacsr_jax.towers.base import Encoded, adapt_towers
from vacsr_jax.towers.presets import PRESETS

pytestmark = pytest.mark.usefixtures("compile_fast")
RNG = np.random.default_rng(0)
N, M, WIDE, NARROW, D = 3, 4, 7, 6, 5  # images, texts, widths of both towers' tokens, dimension
PATCHES, LENGTH = RNG.normal(size=(N, 4, WIDE)), 6
EMBEDDING = RNG.normal(size=(N, 8))
WORDS = RNG.normal(size=(M, LENGTH, NARROW))
LENGTHS = np.array([6, 2, 4, 1])
VALID = np.arange(LENGTH) < LENGTHS[:, None]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def model_of(**fields):
    values = {"dim": D, "places": "pairs", "places_at_most": 64, "scale": 4.0, "bias": -1.0}
    return TokensModel(**values | {"token_bias": True, "gate": True} | fields)


def encoded(dtype=jnp.float32, class_tokens=0):
    """The images, with tokens before their patches if asked for, and the texts."""
    tokens = np.concatenate([RNG.normal(size=(N, class_tokens, WIDE)), PATCHES], axis=1)
    seen = jnp.ones(tokens.shape[:2], bool)
    images = Encoded(jnp.asarray(EMBEDDING, dtype), jnp.asarray(tokens, dtype), seen, None, class_tokens)
    return images, Encoded(jnp.zeros((M, 8), dtype), jnp.asarray(WORDS, dtype), jnp.asarray(VALID))


def touch(module, images, texts):
    return module(module.prepare_image(images), module.prepare_text(texts))


def params_of(model):
    """Parameters, moved so that nothing stands at zero."""
    params = model.init(jax.random.key(0), *encoded(), method=touch)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), params)


def items_of(model, params, images, texts):
    sides = (("prepare_image", images), ("prepare_text", texts))
    return [model.apply({"params": params}, side, method=name) for name, side in sides]


def dense(params, name, x):
    return x @ np.float64(params[name]["kernel"]) + np.float64(params[name].get("bias", 0))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def numpy_places(params, i, places):
    found = [dense(params, "whole", EMBEDDING[i])]
    if places != "whole":
        found += list(dense(params, "cell", PATCHES[i]))
    if places == "pairs":
        for a in range(4):
            for b in range(4):
                if a != b:
                    hidden = gelu(dense(params, "left", PATCHES[i, a]) + dense(params, "right", PATCHES[i, b]))
                    found.append(dense(params, "pair", hidden))
    return unit(np.array(found))


def numpy_logit(model, params):
    logit = np.zeros((N, M))
    for i in range(N):
        places = numpy_places(params, i, model.places)
        for j in range(M):
            match = 0.0
            for word in WORDS[j, : LENGTHS[j]]:
                fits = np.exp(np.float64(params["log_scale"])) * places @ unit(dense(params, "claim", word))
                bias = dense(params, "claim_bias", word)[0] if model.token_bias else np.float64(params["shared_bias"])
                weight = 1 / (1 + np.exp(-dense(params, "weight", word)[0])) if model.gate else 1.0
                match += weight * log_expit(logsumexp(fits) + bias)
            logit[i, j] = match - np.log(-np.expm1(match))
    return logit


@pytest.mark.parametrize(
    "fields", [{}, *({"places": p} for p in PLACES[:2]), {"gate": False}, {"token_bias": False}], ids=str
)
def test_by_hand_in_every_form(fields):
    model = model_of(**fields)
    params = params_of(model)
    expected = numpy_logit(model, params)
    images, texts = items_of(model, params, *encoded())
    np.testing.assert_allclose(model.apply({"params": params}, images, texts), expected, **CLOSE)
    if fields:
        return
    scorer = model.apply({"params": params}, method="scorer")
    scores = scorer.score_tile(images, texts)
    np.testing.assert_allclose(scores.logit, expected, **CLOSE)
    assert scores.uncertainty is None
    chosen = np.array([[3, 0], [1, 2], [3, 3]])
    listed = score_candidates(scorer, *jax.tree.map(np.asarray, (images, texts)), chosen)
    np.testing.assert_allclose(listed.logit, np.take_along_axis(expected, chosen, 1), **CLOSE)
    tiled = map_pairs(lambda v, t, _: model.apply({"params": params}, v, t), images, texts, tile_pairs=4)
    np.testing.assert_allclose(tiled, expected, **CLOSE)
    half = scorer.in_precision(jnp.bfloat16).score_tile(images, texts).logit
    np.testing.assert_allclose(half, expected, atol=0.15)
    assert np.abs(half - expected).max() > 1e-4


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    model = model_of()
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params_of(model))
        labels = jnp.eye(N, M)

        def loss_of(inputs):
            params, patches, words = inputs
            images, texts = encoded(jnp.float64)
            sides = images._replace(tokens=patches), texts._replace(tokens=words)
            found = model.apply({"params": params}, *items_of(model, params, *sides))
            return sigmoid(found, labels, jnp.ones((N, M), bool))[0]

        check_gradient(loss_of, (params, jnp.asarray(PATCHES), jnp.asarray(WORDS)), step=1e-5, directions=3)


def test_far_logits_and_their_gradients_are_finite():
    places, claims = unit(RNG.normal(size=(2, 3, D))), unit(RNG.normal(size=(2, 4, D)))
    weights = jnp.array([[1, 0.5, 1e-30, 1], [0, 0, 0, 0]], jnp.float32)  # the second text says nothing
    kept = jnp.array([[1, 1, 0], [0, 0, 0]], jnp.float32)  # the second image has no place

    @jax.jit
    def value_and_gradient(scale, biases):
        def total(scale, vectors, biases):
            images = Places(jnp.asarray(vectors[0], jnp.float32), kept)
            texts = Claims(jnp.asarray(vectors[1], jnp.float32), weights, biases)
            logit = TokensScorer(scale, jnp.array([1.0, 0.0])).score_tile(images, texts).logit
            return sigmoid(logit, jnp.eye(2), jnp.ones((2, 2), bool))[0], logit

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(scale, (places, claims), biases)

    for scale in (0.0, 1.0, 1e4):
        for bias in (-1e4, 0.0, 1e4):
            found = value_and_gradient(jnp.float32(scale), jnp.full((2, 4), bias, jnp.float32))
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(found)), (scale, bias)
    (_, logit), _ = value_and_gradient(jnp.float32(1), jnp.full((2, 4), 1e4, jnp.float32))
    assert logit[0, 0] == pytest.approx(1e4, rel=1e-3)  # the log odds of a near certainty are not cut off
    assert (logit[:, 1] > 1e8).all()


@pytest.mark.slow
def test_pads_and_places_that_are_none_change_nothing():
    model = model_of()
    params = params_of(model)
    images, texts = encoded()
    expected = numpy_logit(model, params)
    noise = RNG.normal(size=(M, 3, NARROW))
    longer = Encoded(
        texts.embedding, jnp.concatenate([texts.tokens, noise], axis=1), jnp.pad(texts.valid, [(0, 0), (0, 3)])
    )
    np.testing.assert_allclose(touch_items(model, params, images, longer), expected, **CLOSE)
    keep = jnp.array([[True, True, False, True]] * N)
    masked = touch_items(model, params, images._replace(valid=keep), texts)
    fewer = images._replace(tokens=images.tokens[:, [0, 1, 3]], valid=keep[:, :3] | True)
    np.testing.assert_allclose(masked, touch_items(model, params, fewer, texts), **CLOSE)
    assert np.abs(masked - expected).max() > 1e-3


def touch_items(model, params, images, texts):
    return model.apply({"params": params}, *items_of(model, params, images, texts))


def test_a_class_token_is_no_cell():
    model = model_of()
    params = params_of(model)
    np.testing.assert_allclose(
        touch_items(model, params, *encoded(class_tokens=1)), touch_items(model, params, *encoded()), rtol=1e-6
    )
    towers = PRESETS["tiny"]
    counts = {}
    for pool in ("cls", "mean"):
        vision = towers.vision.__class__(**vars(towers.vision) | {"pool": pool})
        config = scenes.get_config("method=tokens")
        whole = build_model(config, type(towers)(vision, towers.text, towers.embedding_dim))
        shapes = jax.eval_shape(
            lambda key, whole=whole: whole.init_with_output(key, jnp.zeros((2, 32, 32, 3)), method="encode_image")[0],
            jax.random.key(0),
        )
        counts[pool] = shapes.vectors.shape
    assert counts == {"cls": (2, 5, 32), "mean": (2, 5, 32)}


@pytest.mark.slow
def test_texts_score_the_same_at_every_length():
    """Rows of tokens as long as the text, of the lengths that texts are embedded in, and of the whole context."""
    config = scenes.get_config("method=tokens")
    model = build_model(config, adapt_towers(PRESETS["tiny"], image_size=0, context_length=40))
    params = random_like(abstract_params(model), np.random.default_rng(0), scale=0.1)
    tokens = np.zeros((2, 40), np.int32)
    tokens[0, :4], tokens[1, :3] = (1, 30, 31, 2), (1, 30, 2)
    images = Places(jnp.asarray(unit(RNG.normal(size=(2, 3, 32))), jnp.float32), jnp.ones((2, 3)))
    scorer = TokensScorer(jnp.float32(10), jnp.array([1.0, 0.0]))
    lengths = [4, *text_lengths(model.towers_config.text)]
    assert lengths == [4, 8, 16, 32, 40]
    found = []
    for length in (4, 8, 40):
        texts = embed_texts(model, params, tokens[:, :length], shorten=False)
        found.append(scorer.score_tile(images, jax.tree.map(jnp.asarray, texts)).logit)
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=1e-5, atol=1e-5)


def test_a_large_grid_is_averaged():
    """25 patches to 4 cells of 3 x 3 that overlap, as adaptive pooling cuts them, of valid patches alone."""
    tokens, valid = RNG.normal(size=(2, 25, 3)), np.ones((2, 25))
    valid[1, :12] = 0
    grid, seen = tokens.reshape(2, 5, 5, 3), valid.reshape(2, 5, 5, 1)
    found, kept = coarser(jnp.asarray(tokens, jnp.float32), jnp.asarray(valid, jnp.float32), 8)
    for q, (rows, columns) in enumerate((a, b) for a in (slice(3), slice(2, 5)) for b in (slice(3), slice(2, 5))):
        part, mask = grid[:, rows, columns], seen[:, rows, columns]
        mean = (part * mask).sum(axis=(1, 2)) / np.maximum(mask.sum(axis=(1, 2)), 1)
        np.testing.assert_allclose(found[:, q], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(kept[:, q], mask.any(axis=(1, 2, 3)))
    same, _ = coarser(jnp.asarray(tokens, jnp.float32), jnp.asarray(valid, jnp.float32), 25)
    np.testing.assert_array_equal(same, np.float32(tokens))
    shape = jax.eval_shape(lambda x: coarser(x, x[..., 0], 64)[0], jnp.zeros((1, 576, 4)))
    assert shape.shape == (1, 64, 4)


def test_what_cannot_be_is_said():
    assert [list(x) for x in ordered_pairs(2)] == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"places=pairs: 49 cells make 2,352 pairs, expected 16 cells at most"):
        ordered_pairs(49)
    with pytest.raises(ValueError, match=r"got 15 patches, expected a square grid"):
        coarser(jnp.zeros((1, 15, 2)), jnp.zeros((1, 15)), 8)
    with pytest.raises(ValueError, match=r"tokens\.places: got 'patches', expected one of whole, cells, pairs"):
        model_of(places="patches").init(jax.random.key(0), *encoded(), method=touch)


def test_the_vector_of_a_store_is_the_mean_fit():
    """Its inner product is sum_l w_l mean_p <t_l, p>, over the places that are there."""
    model = model_of()
    rng = np.random.default_rng(0)
    places, claims = unit(rng.normal(size=(3, 5, 8))), unit(rng.normal(size=(4, 6, 8)))
    there, weights = (rng.random((3, 5)) < 0.7).astype(np.float64), rng.random((4, 6))
    there[:, 0] = 1
    found = model.direction(Places(places, there)) @ model.direction(Claims(claims, weights, weights)).T
    fits = np.einsum("npd,mld->nmlp", places, claims)
    mean = np.einsum("nmlp,np->nml", fits, there) / there.sum(axis=1)[:, None, None]
    np.testing.assert_allclose(found, np.einsum("nml,ml->nm", mean, weights), atol=1e-12)
