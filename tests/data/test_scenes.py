"""Scenes, checked by a reader that knows only the words of a caption and the objects of a scene."""

import inspect
import itertools

import numpy as np
import pytest

from vacsr_jax.data.scenes import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    MAX_WORDS,
    SHAPES,
    SIZES,
    SPLITS,
    distinct_layouts,
    identity,
    is_novel,
    make_scenes,
)

DEFAULT_ODDS = (0.25, 0.40, 0.35)
NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3}
COLUMN = {"left": 0, "right": 1}
ROW = {"top": 0, "bottom": 1}


def make(split="test", n=120, seed=0, odds=DEFAULT_ODDS, held_out=False):
    # Unwrapped, since a cached source would prove nothing.
    return inspect.unwrap(make_scenes)(split, n, seed=seed, facts_per_caption=odds, held_out=held_out)


@pytest.fixture(scope="module")
def scenes():
    return make()


@pytest.fixture(scope="module")
def truth(scenes):
    return scenes.relevance()


@pytest.fixture(scope="module")
def training_codes():
    """Identities of full training sets, with and without held-out combinations, for two seeds."""
    sets = itertools.product((False, True), (0, 1))
    layouts = [distinct_layouts(np.random.default_rng(seed), 12_000, "train", held_out) for held_out, seed in sets]
    return [set(identity(layout).tolist()) for layout in layouts]


def describe(layout, i):
    """Returns (background, {(row, column): the words that may name the object}) of scene i."""
    objects = {}
    for cell in range(4):
        if layout.shape[i, cell] >= 0:
            words = list(SIZES)[layout.size[i, cell]], list(COLOURS)[layout.colour[i, cell]]
            objects[cell // 2, cell % 2] = {*words, SHAPES[layout.shape[i, cell]], "object"}
    return list(BACKGROUNDS)[layout.background[i]], objects


def split_at(words, *markers):
    for marker in markers:
        at = next((i for i in range(len(words)) if words[i : i + len(marker)] == marker), None)
        if at is not None:
            return words[:at], words[at + len(marker) :]
    return None


def is_true(fact, background, objects):
    """Tells whether one statement, given as text, is true."""
    words = fact.split()
    if words[0] == "no":
        return not is_true(" ".join(["a", *words[1:]]), background, objects)
    if words[-1] == "background":
        return words[1] == background
    if words[-2:] == ["in", "all"]:
        return NUMBERS[words[0]] == len(objects)
    found = lambda phrase: [place for place, names in objects.items() if set(phrase) - {"a"} <= names]  # noqa: E731
    if parts := split_at(words, ["on", "the"], ["at", "the"]):
        phrase, (side,) = parts
        return any(column == COLUMN.get(side) or row == ROW.get(side) for row, column in found(phrase))
    for marker, holds in {
        ("left", "of"): lambda a, b: a[1] < b[1],
        ("right", "of"): lambda a, b: a[1] > b[1],
        ("above",): lambda a, b: a[0] < b[0],
        ("below",): lambda a, b: a[0] > b[0],
    }.items():
        if parts := split_at(words, list(marker)):
            return any(holds(a, b) for a, b in itertools.product(*map(found, parts)))
    return bool(found(words))


def naive_relevance(source):
    captions = [caption.split(" and ") for own in source.captions for caption in own]
    worlds = [describe(source.layout, i) for i in range(len(source))]
    return np.array([[np.mean([is_true(f, *world) for f in facts]) for facts in captions] for world in worlds])


@pytest.mark.parametrize("split", [s for s in SPLITS if s != "train"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_scene_of_another_split_stands_in_training(split, seed, training_codes):
    codes = set(identity(make(split, 200, seed).layout).tolist())
    assert all(not codes & training for training in training_codes)


def test_validation_and_test_share_no_scene():
    codes = [set(identity(make(split, 400).layout).tolist()) for split in ("validation", "test")]
    assert not codes[0] & codes[1]


@pytest.mark.parametrize("split", SPLITS)
def test_no_scene_stands_twice_in_a_split(split):
    assert len(np.unique(identity(make(split, 500).layout))) == 500


@pytest.mark.slow
def test_identity_is_equal_exactly_where_all_facts_are():
    layout = make("train", 3000).layout
    facts = np.concatenate([layout.background[:, None], layout.shape, layout.colour, layout.size], axis=1)
    assert len(np.unique(facts, axis=0)) == len(np.unique(identity(layout))) == 3000


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_arguments_make_the_same_scenes(split):
    first, second = make(split, 40), make(split, 40)
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.captions, first.ids, first.facts) == (second.captions, second.ids, second.facts)


def test_another_seed_makes_other_scenes(scenes):
    other = make(seed=1)
    assert (scenes.images != other.images).any()
    assert scenes.captions != other.captions
    assert len(set(scenes.ids) & set(other.ids)) < 20


def test_every_caption_is_true_of_its_own_scene(scenes):
    for i, captions in enumerate(scenes.captions):
        world = describe(scenes.layout, i)
        assert all(is_true(fact, *world) for caption in captions for fact in caption.split(" and "))


@pytest.mark.slow
def test_relevance_is_what_a_naive_reader_of_the_text_finds(scenes, truth):
    np.testing.assert_allclose(truth, naive_relevance(scenes), atol=1e-4)
    assert truth.dtype == np.float32
    assert {0, 1} < set(np.unique(truth).tolist())


def test_the_naive_reader_meets_every_kind_of_fact(scenes):
    text = " and ".join(caption for own in scenes.captions for caption in own)
    said = ("background", "in all", "on the left", "at the bottom", "left of", "right of", "above", "below", "object")
    assert all(words in text for words in said)


def test_a_match_is_exactly_one(scenes, truth):
    own = np.repeat(np.arange(len(scenes)), 5)
    assert (truth[own, np.arange(len(own))] == 1).all()


def false_negative_share(odds):
    source = make(n=300, odds=odds)
    matches = source.relevance() == 1
    matches[np.repeat(np.arange(300), 5), np.arange(1500)] = False  # the labels
    return matches.sum() / (300 * 1500 - 1500)


def test_the_false_negative_share_is_known_and_has_a_dial():
    few, default, many = (false_negative_share(odds) for odds in ((1, 0, 0), DEFAULT_ODDS, (0, 0, 1)))
    assert 0.05 < default < 0.07
    assert few > 2 * default > 4 * many > 0


def test_captions_are_short_enough_and_state_one_to_three_facts():
    source = make("train", 600)
    captions = [caption for own in source.captions for caption in own]
    assert max(len(caption.split()) for caption in captions) <= MAX_WORDS
    shares = np.bincount([len(facts) for facts in source.facts], minlength=4) / len(captions)
    np.testing.assert_allclose(shares[1:], DEFAULT_ODDS, atol=0.09)  # those of more than MAX_WORDS are drawn again
    assert all(len(own) == 5 for own in source.captions)


def held_out_pairs():
    """Finds the colour x shape pairs of novel scenes that no base scene has, from the scenes alone."""

    def shown(split):
        layout = make(split, 500).layout
        there = layout.shape >= 0
        return set(zip(layout.colour[there].tolist(), layout.shape[there].tolist(), strict=True))

    return shown("test_novel") - shown("test_base")


def test_six_combinations_are_held_out_with_every_colour_and_shape_left_in_training():
    pairs = held_out_pairs()
    assert len(pairs) == 6
    left = {(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))} - pairs
    assert {c for c, _ in left} == set(range(len(COLOURS)))
    assert {s for _, s in left} == set(range(len(SHAPES)))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.slow
def test_with_held_out_no_scene_shows_and_no_caption_names_a_held_out_combination(split):
    source = make(split, 1500, held_out=True)
    names = [f"{list(COLOURS)[c]} {SHAPES[s]}" for c, s in held_out_pairs()]
    text = " and ".join(caption for own in source.captions for caption in own)
    assert not is_novel(source.layout).any()
    assert not any(name in text for name in names)


def test_without_held_out_training_shows_them():
    assert is_novel(make("train", 300).layout).mean() > 0.2


def test_novel_scenes_all_show_a_held_out_combination_and_base_scenes_none():
    assert is_novel(make("test_novel", 300).layout).all()
    assert not is_novel(make("test_base", 300).layout).any()


def cells_of(source):
    """Pixels in [0, 1] by scene and cell, float [n, 4, 16, 16, 3]."""
    pixels = source.images.reshape(len(source), 2, CELL, 2, CELL, 3) / 255
    return pixels.swapaxes(2, 3).reshape(len(source), 4, CELL, CELL, 3)


def test_the_middle_of_a_cell_has_the_colour_that_the_layout_says(scenes):
    middle = cells_of(scenes)[:, :, 7:9, 7:9].mean(axis=(2, 3))
    palette = np.array(list(COLOURS.values()))
    distance = np.linalg.norm(middle[:, :, None] - palette, axis=-1)
    there = scenes.layout.shape >= 0
    np.testing.assert_array_equal(distance.argmin(axis=-1)[there], scenes.layout.colour[there])
    for colour, expected in enumerate(palette):
        np.testing.assert_allclose(middle[there & (scenes.layout.colour == colour)].mean(axis=0), expected, atol=0.05)


def test_an_empty_cell_shows_the_background(scenes):
    expected = np.array(list(BACKGROUNDS.values()))[scenes.layout.background]
    shown = cells_of(scenes).mean(axis=(2, 3, 4))
    empty = scenes.layout.shape < 0
    np.testing.assert_allclose(shown[empty], np.broadcast_to(expected[:, None], empty.shape)[empty], atol=0.09)


def test_large_objects_cover_more_than_small_ones_of_every_shape(scenes):
    pixels = cells_of(scenes)
    corner = pixels[:, :, :1, :1]  # no object reaches it
    covered = (np.abs(pixels - corner).max(axis=-1) > 0.15).sum(axis=(2, 3))
    for shape in range(len(SHAPES)):
        small, large = (covered[(scenes.layout.shape == shape) & (scenes.layout.size == size)] for size in (0, 1))
        assert large.min() > small.max() > 0


def test_images_are_bytes_of_the_tiny_towers_size(scenes):
    assert scenes.images.shape == (120, 32, 32, 3)
    assert scenes.images.dtype == np.uint8


def test_an_unknown_split_is_refused_with_the_list():
    with pytest.raises(ValueError, match="got 'tset', expected one of train, validation, test, test_base, test_novel"):
        make("tset")


def test_more_scenes_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr("vacsr_jax.data.scenes.OBJECT_COUNT_WEIGHTS", (1.0, 0.0, 0.0))  # 576 scenes in all
    with pytest.raises(ValueError, match=r"asked for 400 distinct scenes of test, found \d\d; ask for fewer"):
        make(n=400)


@pytest.mark.parametrize("odds", [(0.5, 0.5), (0.5, 0.6, -0.1), (0, 0, 0), (1, 2, 3, 4)])
def test_bad_odds_are_refused(odds):
    with pytest.raises(ValueError, match="facts_per_caption: got"):
        make(odds=odds)


def test_a_fact_may_say_what_a_scene_lacks(scenes):
    source = inspect.unwrap(make_scenes)("test", 120, seed=0, facts_per_caption=DEFAULT_ODDS, absent=0.5)
    kinds = [fact.kind for facts in source.facts for fact in facts]
    assert 0.4 < np.mean([kind == "absent" for kind in kinds]) < 0.6
    np.testing.assert_allclose(source.relevance(), naive_relevance(source), atol=1e-4)
    np.testing.assert_array_equal(source.images, scenes.images)
    with pytest.raises(ValueError, match=r"data\.absent: got 2, expected a share of the facts, 0 to 1"):
        inspect.unwrap(make_scenes)("test", 5, seed=0, facts_per_caption=DEFAULT_ODDS, absent=2)


def test_objects_may_leave_their_cells_and_stay_what_they_are(scenes):
    """With jitter the facts, and what is drawn at random besides, are as without; the objects lie elsewhere."""
    draw = inspect.unwrap(make_scenes)
    moved = draw("test", 120, seed=0, facts_per_caption=DEFAULT_ODDS, jitter=4.0)
    assert moved.captions == scenes.captions
    one = np.flatnonzero((scenes.layout.shape >= 0).sum(axis=1) == 1)
    large = [i for i in one if scenes.layout.size[i].max() == 1]
    shifts, outside = [], 0
    for i in large:
        cell = int(scenes.layout.shape[i].argmax())
        centres = []
        for source in (scenes, moved):
            pixels = source.images[i] / 255
            background = np.median(pixels, axis=(0, 1))
            covered = np.abs(pixels - background).max(axis=-1) > 0.15
            y, x = np.nonzero(covered)
            centres.append((x.mean() - CELL * (cell % 2) - 7.5, y.mean() - CELL * (cell // 2) - 7.5))
            outside += source is moved and bool((x // CELL != cell % 2).any() or (y // CELL != cell // 2).any())
        shifts.append(np.subtract(*centres))
    assert np.abs(shifts).max() < 5.5
    assert np.abs(shifts).max() > 3
    assert outside > 3
    with pytest.raises(ValueError, match=r"data\.jitter: got 9, expected 0 to 8 pixels"):
        draw("test", 5, seed=0, facts_per_caption=DEFAULT_ODDS, jitter=9)
