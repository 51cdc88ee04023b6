import dataclasses
import functools

import numpy as np
import pytest

from vacsr_jax.data.augment import Augmentation, ordinary_ids, part_of_area
from vacsr_jax.data.loader import Pairs, batch_at
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.source import ArraySource

PLAIN = Augmentation("none", 8, "crop", 0.0, 9, (10, 50), 2, 0)
TOKENS = dataclasses.replace(PLAIN, token_rate=0.4)
ROW = np.array([1, 20, 21, 22, 23, 24, 2, 0, 0], np.int32)


def test_tokens_are_hidden_replaced_and_dropped_in_the_published_shares():
    rng, row = np.random.default_rng(0), np.concatenate([[1], np.full(2000, 60), [2, 0]]).astype(np.int32)
    out = TOKENS.tokens(row, rng)
    inner = out[1 : int(np.argmax(out == 2))]
    assert out.dtype == np.int32
    assert out.shape == row.shape
    assert (out[0], out[len(inner) + 1]) == (1, 2)
    assert not out[len(inner) + 2 :].any()
    rates = [(inner == 9).sum() / 2000, ((inner >= 10) & (inner < 50)).sum() / 2000, 1 - len(inner) / 2000]
    np.testing.assert_allclose(rates, [0.4 * 0.5, 0.4 * 0.1, 0.4 * 0.4], atol=0.03)


def test_a_row_may_lose_all_its_words_and_a_rate_of_zero_changes_nothing():
    always = dataclasses.replace(PLAIN, token_rate=1.0)
    shortest = min(
        (always.tokens(ROW[[0, 1, 6, 7]], np.random.default_rng(i)) for i in range(20)), key=np.count_nonzero
    )
    assert shortest.tolist() == [1, 2, 0, 0]
    np.testing.assert_array_equal(PLAIN.tokens(ROW, np.random.default_rng(0)), ROW)


def gradient_image(height=30, width=60):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8, columns * 4, 0 * rows], -1).astype(np.uint8)


def test_pcmepp_crops_one_ratio_of_both_sides_squashes_and_mirrors():
    augment, mirrored, ratios = dataclasses.replace(PLAIN, images="pcmepp"), [], []
    for i in range(60):
        out = augment.image(gradient_image(), np.random.default_rng(i)).astype(float)
        assert out.shape == (8, 8, 3)
        slopes = out[-1, 0, 0] - out[0, 0, 0], out[0, -1, 1] - out[0, 0, 1]
        mirrored.append(slopes[1] < 0)
        ratios.append((slopes[0] / 240, abs(slopes[1]) / 240))
    ratios = np.array(ratios)
    assert 0.25 < np.mean(mirrored) < 0.75
    np.testing.assert_allclose(ratios[:, 0], ratios[:, 1], atol=0.05)
    assert ratios.min() > 0.48
    assert ratios.max() < 0.95
    assert np.ptp(ratios) > 0.2


def test_clips_own_is_a_square_of_the_resized_image():
    augment = dataclasses.replace(PLAIN, images="clip")
    outs = [augment.image(gradient_image(), np.random.default_rng(i)) for i in range(8)]
    assert all(out.shape == (8, 8, 3) for out in outs)
    assert len({out[0, 0, 1] for out in outs}) > 2
    assert len({out[0, 0, 0] for out in outs}) == 1  # the shorter side is whole


def test_squashing_keeps_all_of_the_image():
    cropped, squashed = (preprocess(gradient_image(), image_size=8, resize=how) for how in ("crop", "squash"))
    assert squashed.shape == (8, 8, 3)
    assert np.ptp(squashed[..., 1].astype(int)) > 1.5 * np.ptp(cropped[..., 1].astype(int))
    with pytest.raises(ValueError, match="resize: got 'pad'"):
        preprocess(gradient_image(), image_size=8, resize="pad")


def test_batches_are_a_function_of_seed_and_step_on_any_number_of_processes():
    images = np.random.default_rng(0).integers(0, 255, (5, 12, 10, 3), dtype=np.uint8)
    source = ArraySource(images, [("x",)] * 5, list("abcde"))
    augment = dataclasses.replace(TOKENS, images="pcmepp")
    pairs = Pairs(source, np.tile(ROW, (5, 1)), np.arange(5), functools.partial(preprocess, image_size=8), augment)
    whole = batch_at(pairs, 3, batch_size=8, seed=1)
    again = batch_at(pairs, 3, batch_size=8, seed=1)
    halves = [batch_at(pairs, 3, batch_size=8, seed=1, shard=(i, 2)) for i in range(2)]
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name])
        np.testing.assert_array_equal(whole[name], np.concatenate([half[name] for half in halves]))
    # The same pair at another step is drawn anew.
    assert any((whole["tokens"] != batch_at(pairs, step, batch_size=8, seed=1)["tokens"]).any() for step in (4, 5))


def test_ordinary_ids_are_those_beside_the_special_ones():
    assert ordinary_ids(49408, (49406, 49407, 49407)) == (0, 49406)
    assert ordinary_ids(1024, (1, 2, 0)) == (3, 1024)


@pytest.mark.parametrize(
    ("field", "value", "message"), [("images", "crop", "augment.images"), ("token_rate", 2.0, "augment.tokens")]
)
def test_wrong_choices_are_errors(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **{field: value})


def test_parts_of_the_area_have_the_published_shares_and_ratios():
    rng = np.random.default_rng(0)
    sides = np.array([part_of_area((400, 300), rng) for _ in range(2000)])
    share, ratio = sides.prod(axis=1) / 120_000, sides[:, 0] / sides[:, 1]
    assert sides.max(axis=0).tolist() <= [400, 300]
    assert 0.079 < share.min() < 0.1
    assert 0.9 < share.max() <= 1
    assert 0.74 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.35
    assert part_of_area((1000, 10), rng)[1] == 10


def test_area_shows_a_part_of_the_image_mirrored_half_the_time():
    augment = dataclasses.replace(PLAIN, images="area")
    outs = [augment.image(gradient_image(), np.random.default_rng(i)).astype(float) for i in range(60)]
    assert {out.shape for out in outs} == {(8, 8, 3)}
    assert 0.25 < np.mean([out[0, 0, 1] > out[0, -1, 1] for out in outs]) < 0.75
    assert np.ptp([out[-1, 0, 0] - out[0, 0, 0] for out in outs]) > 60  # how much of the height is seen
