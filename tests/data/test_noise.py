"""Noisy correspondence: what each protocol changes and keeps, seeds and hashes, and index files."""

import hashlib

import numpy as np
import pytest

from vacsr_jax.data.noise import PROTOCOLS, make_noise, read_noise, write_noise

IMAGE_OF = np.repeat(np.arange(400), 5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_the_asked_fraction_is_wrong_and_nothing_is_lost(protocol, fraction):
    noise = make_noise(IMAGE_OF, fraction, protocol=protocol, seed=0)
    np.testing.assert_array_equal(np.sort(noise.index), IMAGE_OF)  # each image is used as often as before
    wrong = np.mean(noise.index != IMAGE_OF)
    assert noise.facts["wrong"] == wrong
    assert fraction - 0.01 <= wrong <= fraction  # the permutation leaves about one of the drawn ones in place
    assert (noise.facts["protocol"], noise.facts["fraction"], noise.facts["seed"]) == (protocol, fraction, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_wrong_ones_are_spread_over_all_captions(protocol):
    moved = make_noise(IMAGE_OF, 0.5, protocol=protocol, seed=0).index != IMAGE_OF
    shares = moved.reshape(4, -1).mean(axis=1)
    assert 0.4 < shares.min() < shares.max() < 0.6


def kept_captions(protocol, fraction=0.5):
    """Counts the correct captions that each image keeps."""
    return (make_noise(IMAGE_OF, fraction, protocol=protocol, seed=0).index == IMAGE_OF).reshape(-1, 5).sum(axis=1)


def test_caption_noise_leaves_most_images_some_right_captions_and_image_noise_all_or_none():
    for protocol in ("caption", "pcmepp"):
        assert 0 < np.mean(kept_captions(protocol) == 0) < 0.08  # 2^-5 = 3.1 % at a half
        assert {1, 2, 3, 4} <= set(kept_captions(protocol))
    assert set(kept_captions("image")) == {0, 5}


def test_image_noise_moves_the_captions_of_an_image_together():
    index = make_noise(IMAGE_OF, 0.5, protocol="image", seed=0).index.reshape(-1, 5)
    assert (index == index[:, :1]).all()


def test_images_need_not_have_equally_many_captions():
    image_of = np.repeat([0, 1, 3, 4], [1, 4, 2, 3])  # image 2 has none
    for protocol in ("caption", "pcmepp"):
        index = make_noise(image_of, 1.0, protocol=protocol, seed=1).index
        np.testing.assert_array_equal(np.sort(index), image_of)
    index = make_noise(image_of, 1.0, protocol="image", seed=1).index
    assert set(index) == {0, 1, 3, 4}
    assert all(len(set(index[image_of == i])) == 1 for i in set(image_of))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_seed_decides(protocol):
    first, again, other = (make_noise(IMAGE_OF, 0.4, protocol=protocol, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.index, again.index)
    assert first.facts == again.facts
    assert (first.index != other.index).any()
    assert first.facts["sha256"] != other.facts["sha256"]


def test_the_draws_never_change():
    found = {p: make_noise(IMAGE_OF, 0.2, protocol=p, seed=0).facts["sha256"][:8] for p in PROTOCOLS}
    assert found == {"caption": "d134754b", "image": "acbeb092", "pcmepp": "f0f3e726"}


def test_the_hash_is_of_the_index_alone():
    index = make_noise(IMAGE_OF, 0.2, protocol="caption", seed=0)
    assert index.facts["sha256"] == hashlib.sha256(index.index.tobytes()).hexdigest()


def test_no_captions_is_no_error():
    for protocol in PROTOCOLS:
        assert make_noise(np.zeros(0, np.int64), 0.5, protocol=protocol, seed=0).index.shape == (0,)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, 20, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(ValueError, match=r"data\.noise: got .*, expected a fraction between 0 and 1"):
        make_noise(IMAGE_OF, fraction, protocol="caption", seed=0)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match=r"data\.noise_protocol: got 'ncr', expected one of caption, image, pcmepp"):
        make_noise(IMAGE_OF, 0.2, protocol="ncr", seed=0)


def test_a_file_gives_the_index_back_with_its_hash(tmp_path):
    noise = make_noise(IMAGE_OF, 0.3, protocol="caption", seed=4)
    write_noise(tmp_path / "new" / "noise.npy", noise.index)
    read = read_noise(tmp_path / "new" / "noise.npy", IMAGE_OF)
    np.testing.assert_array_equal(read.index, noise.index)
    assert read.facts == {"file": "noise.npy", "wrong": noise.facts["wrong"], "sha256": noise.facts["sha256"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGE_OF[:-1], r"got int64 \[1999\], expected integers \[2000\], one image per training caption"),
        (IMAGE_OF.astype(float), r"got float64 \[2000\]"),
        (IMAGE_OF + 1, r"got images 1\.\.400, the training split has 0\.\.399"),
        ((IMAGE_OF + 7) % 400, r"100\.0 % of the captions get a wrong image; .* order of this source"),
        (np.array({0: 1}), "pickled objects are not read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content, message, tmp_path):
    np.save(tmp_path / "index.npy", content)
    with pytest.raises(ValueError, match=message):
        read_noise(tmp_path / "index.npy", IMAGE_OF)
