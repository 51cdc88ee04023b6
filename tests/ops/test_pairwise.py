import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from vacsr_jax.ops import pairwise


def some_pairs(n=7, m=11, d=5, k=2):
    rng = np.random.default_rng(0)
    images, texts = (jnp.asarray(rng.normal(size=(x, d)), jnp.float32) for x in (n, m))
    noise = (jnp.asarray(rng.normal(size=(n, m, k)), jnp.float32), jnp.asarray(rng.normal(size=(n, m)), jnp.float32))
    return images, texts, noise


def function(images, texts, noise):
    s = pairwise.similarity_vectors(images, texts)
    return {"a": jnp.tanh(s).sum(-1) + noise[1], "b": jnp.sin(s.sum(-1)) * noise[0][..., 1]}


def test_similarity_vectors_sum_to_the_dot_product():
    images, texts, _ = some_pairs()
    np.testing.assert_allclose(
        pairwise.similarity_vectors(images, texts).sum(-1), images @ texts.T, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("tile_pairs", [1, 3, 11, 12, 30, 76, 77, 1000])
def test_tiles_change_nothing(tile_pairs):
    images, texts, noise = some_pairs()
    whole = function(images, texts, noise)
    tiled = pairwise.map_pairs(function, images, texts, noise, tile_pairs=tile_pairs)
    for name in whole:
        np.testing.assert_allclose(tiled[name], whole[name], atol=1e-6)


@pytest.mark.parametrize("tile_pairs", [4, 30])
@pytest.mark.slow
def test_gradients_through_tiles(tile_pairs):
    images, texts, noise = some_pairs()

    def total(images, texts, noise, tile_pairs):
        out = pairwise.map_pairs(function, images, texts, noise, tile_pairs=tile_pairs)
        return jnp.sum(out["a"] ** 2) + jnp.sum(out["b"])

    gradient = jax.grad(total, argnums=(0, 1, 2))
    tiled, whole = gradient(images, texts, noise, tile_pairs), gradient(images, texts, noise, 10_000)
    for a, b in zip(jax.tree.leaves(tiled), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_memory_is_the_tiles_not_the_grids():
    # 256 x 256 pairs of d = 64 are 16.8 MB; a tile of 1,024 pairs is 0.26 MB, and forward and backward hold a few.
    x = jax.ShapeDtypeStruct((256, 64), jnp.float32)

    def loss(images, texts, tile_pairs):
        def tile(v, t, _):
            return jnp.sin(jnp.tanh(pairwise.similarity_vectors(v, t)) * 2).sum(-1)

        return pairwise.map_pairs(tile, images, texts, tile_pairs=tile_pairs).sum()

    def temporary_bytes(tile_pairs):
        gradient = jax.jit(jax.grad(lambda v, t: loss(v, t, tile_pairs), argnums=(0, 1)))
        return gradient.lower(x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1024) < 3e6 < 16e6 < temporary_bytes(10**6)


def test_sharded_pairs_equal_one_device():
    images, texts, noise = some_pairs(n=8)
    devices = np.array(jax.devices())
    assert len(devices) == 8
    scale = jnp.float32(1.7)

    def scaled(scale, images, texts, noise):
        return jax.tree.map(lambda x: scale * x, function(images, texts, noise))

    one, eight = (
        jax.jit(lambda *x, mesh=mesh: pairwise.shard_pairs(scaled, mesh, *x))(scale, images, texts, noise)
        for mesh in (Mesh(devices[:1], ("data",)), Mesh(devices, ("data",)))
    )
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], atol=1e-6)


def test_an_empty_side_is_an_error():
    with pytest.raises(ValueError, match="0 x 3"):
        pairwise.tile_shape(0, 3, 10)
