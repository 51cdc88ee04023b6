import random

import numpy as np
import pytest

from configs import scene_web as config_file
from vacsr_jax.data import scene_web
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.scene_web import BACKGROUNDS, CHATTER, make_web, web_text
from vacsr_jax.data.scenes import GREYS, SPLITS, make_scenes
from vacsr_jax.data.source import caption_pairs

FACTS = (0.25, 0.4, 0.35)


@pytest.fixture(scope="module")
def web():
    return make_web("train", 600, seed=0)


def chroma(images):
    """How far the commonest colour of each picture (its background) is from grey, in levels of 255."""
    medians = np.median(images.reshape(len(images), -1, 3), axis=1)
    return medians.max(axis=1) - medians.min(axis=1)


def test_no_web_picture_has_the_background_of_a_scene(web):
    distance = np.linalg.norm(np.array(list(BACKGROUNDS.values()))[:, None] - GREYS[None], axis=-1)
    assert distance.min() > 0.2
    scenes = [make_scenes(split, 200, seed=0, facts_per_caption=FACTS) for split in SPLITS[:3]]
    found = [np.median(chroma(source.images)) for source in scenes]
    assert max(found) < 15 < np.median(chroma(web.images))


def test_equal_arguments_give_equal_pictures_and_texts(web):
    make_web.cache_clear()
    again = make_web("train", 600, seed=0)
    np.testing.assert_array_equal(again.images, web.images)
    assert again.captions == web.captions
    assert make_web("train", 600, seed=1).captions != web.captions


def test_pictures_are_the_same_however_many_are_drawn_at_once(web, monkeypatch):
    monkeypatch.setattr(scene_web, "PICTURES_AT_ONCE", 600)
    make_web.cache_clear()
    np.testing.assert_array_equal(make_web("train", 600, seed=0).images, web.images)


def test_a_tenth_of_the_texts_was_written_for_another_picture(monkeypatch):
    given = []
    monkeypatch.setattr(scene_web, "web_text", lambda words, scene: given.append(scene) or "a")
    make_web.cache_clear()
    make_web("train", 2000, seed=3)
    make_web.cache_clear()
    monkeypatch.setattr(scene_web, "WRONG", 0.0)
    right, given = given, []
    monkeypatch.setattr(scene_web, "web_text", lambda words, scene: given.append(scene) or "a")
    make_web("train", 2000, seed=3)
    make_web.cache_clear()
    assert np.mean([a != b for a, b in zip(right, given, strict=True)]) == pytest.approx(0.1, abs=0.03)


def test_texts_are_short_and_often_hold_chatter(web):
    texts, _ = caption_pairs(web)
    with_chatter = np.mean([any(chatter in text for chatter in CHATTER) for text in texts])
    assert 0.4 < with_chatter < 0.65  # 1 - .7 * .7 = .51
    scenes, _ = caption_pairs(make_scenes("train", 200, seed=0, facts_per_caption=FACTS))
    assert np.mean([len(text.split()) for text in texts]) < 0.8 * np.mean([len(text.split()) for text in scenes])
    assert not any(text.startswith("a ") and " and a " in text for text in texts)


def test_a_text_says_what_its_picture_shows():
    class Scene:
        background, shape, colour, size = 1, [-1, 2, -1, -1], [-1, 0, -1, -1], [-1, 1, -1, -1]

    texts = {web_text(random.Random(i), Scene) for i in range(300)}
    assert "large red triangle" in texts
    assert not any("circle" in text or "blue" in text for text in texts)


def test_the_config_trains_on_the_web_and_tests_on_scenes():
    config = config_file.get_config()
    with config.unlocked():
        config.data.train_size = config.data.validation_size = config.data.test_size = 60
    assert open_split(config, "train").ids[0] == "web-train-0"
    assert open_split(config, "validation").ids[0] == "web-validation-0"
    test = open_split(config, "test")
    assert test.ids == make_scenes("test", 60, seed=0, facts_per_caption=FACTS).ids
    with pytest.raises(ValueError, match="expected one of train, validation"):
        make_web("test", 5, seed=0)
