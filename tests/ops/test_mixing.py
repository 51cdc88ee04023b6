import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.ops.mixing import keep_tokens, mix_images

SIZE = 16


@pytest.fixture(scope="module")
def mixed(compile_fast):
    """Mixes half of 256 constant images, 0 to 255 / 256; returns them and the share that each keeps."""
    pixels = jnp.broadcast_to((jnp.arange(256) / 256.0)[:, None, None, None], (256, SIZE, SIZE, 3))
    out, share = jax.jit(mix_images, static_argnums=2)(jax.random.key(0), pixels, 0.5)
    return np.asarray(pixels), np.asarray(out), np.asarray(share)


def test_the_share_is_that_of_the_pixels(mixed):
    pixels, out, share = mixed
    expected = share * pixels[:, 0, 0, 0] + (1 - share) * pixels[::-1, 0, 0, 0]
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), expected, atol=1e-5)


def test_half_are_whole_and_the_mixed_ones_are_half_blends_half_rectangles(mixed):
    pixels, out, share = mixed
    whole = share == 1
    np.testing.assert_array_equal(out[whole], pixels[whole])
    assert 0.4 < whole.mean() < 0.62
    values = np.array([len(np.unique(image[..., 0])) for image in out[~whole]])
    assert set(values) <= {1, 2}  # a blend of two constants is a constant; a cut has both
    assert 0.3 < (values == 2).mean() < 0.6
    for image in out[~whole][values == 2][:5]:
        other = image[..., 0] == (np.unique(image)[0] if (image == image.min()).mean() < 0.5 else np.unique(image)[-1])
        rows, columns = other.any(1), other.any(0)
        np.testing.assert_array_equal(other, rows[:, None] & columns[None, :])


def test_size_augmentation_spares_weak_draws_and_never_drops_all():
    keep = np.asarray(keep_tokens(jax.random.key(0), (4000, 20), 0.2))
    dropped = 1 - keep.mean(1)
    assert (dropped == 0).mean() > 0.2  # u <= 0.2, and luck
    # E[0.2 u; u > 0.2] = 0.1 (1 - 0.04)
    np.testing.assert_allclose(dropped.mean(), 0.096, atol=0.004)
    assert np.asarray(keep_tokens(jax.random.key(1), (500, 1), 0.9)).all()
