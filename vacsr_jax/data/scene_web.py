"""A "web" of pictures with texts around them, on which towers for scenes are pretrained, as CLIP was for COCO.

The pictures show the objects of `data.scenes` on backgrounds that no scene has, so no web picture shares a scene with
any split there. The texts are what stands beside a picture on the web: one short fact without articles, often among
words that say nothing about the picture, and sometimes written for another picture.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from vacsr_jax.data.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIDES,
    SIZES,
    Fact,
    Layout,
    NounPhrase,
    draw_images,
    draw_layouts,
    write_facts,
)
from vacsr_jax.data.source import ArraySource

BACKGROUNDS = {"beige": (0.86, 0.80, 0.68), "brown": (0.42, 0.30, 0.22), "navy": (0.10, 0.13, 0.32)}
JITTER = 1.5  # pixels; see `draw_images`
FACTS = (0.7, 0.3, 0.0)  # odds of 1, 2 and 3 facts in a text
WRONG = 0.1  # share of texts that were written for another picture
CHATTER = (
    "stock photo", "free download", "black friday sale", "white label", "grey market", "best price", "hd wallpaper",
    "see all objects in the shop", "vector art", "my drawing no 3", "icon", "one of many", "print at home",
    "two for one", "three colours left", "photo and frame", "a gift", "on offer", "background image",
)  # fmt: skip
SPLITS = ("train", "validation")
PICTURES_AT_ONCE = 4096  # drawn at a time: 0.1 GB of temporary arrays


@functools.lru_cache(maxsize=2)
def make_web(split: str, n: int, *, seed: int) -> ArraySource:
    """Makes n pictures of the web with one text each. Equal arguments give equal pictures.

    Args:
      split: train or validation.
      n: number of pictures; two may show the same objects.
      seed: seed of pictures and texts.

    Raises:
      ValueError: if the web has no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"scene_web split: got {split!r}, expected one of {', '.join(SPLITS)}")
    rng, words = np.random.default_rng([seed, SPLITS.index(split)]), random.Random(f"web {seed} {split}")
    layout = draw_layouts(rng, n)
    written_for = np.arange(n)
    moved = np.flatnonzero(rng.random(n) < WRONG)
    written_for[moved] = np.roll(moved, 1)
    colours = np.array(list(BACKGROUNDS.values()))
    parts = [layout.take(slice(i, i + PICTURES_AT_ONCE)) for i in range(0, n, PICTURES_AT_ONCE)]
    images = np.concatenate([draw_images(rng, part, JITTER, colours) for part in parts])
    images.setflags(write=False)  # the cached array is shared
    scenes = list(map(Layout._make, zip(*(part.tolist() for part in layout), strict=True)))
    texts = [web_text(words, scenes[i]) for i in written_for]
    return ArraySource(images, [(text,) for text in texts], [f"web-{split}-{i}" for i in range(n)])


def web_text(words: random.Random, scene: Layout) -> str:
    """The text beside a picture: its facts, and chatter before, after or on both sides in half of the cases."""
    said = [", ".join(fact_text(fact) for fact in write_facts(words, scene, FACTS))]
    if words.random() < 0.3:
        said.insert(0, words.choice(CHATTER))
    if words.random() < 0.3:
        said.append(words.choice(CHATTER))
    return " ".join(said)


def fact_text(fact: Fact) -> str:
    """A fact in few words, without articles: "large red circle", "circle on left", "red object above blue cross"."""
    if fact.kind == "background":
        return list(BACKGROUNDS)[fact.value]
    if fact.kind == "count":
        return f"{fact.value} items"
    if fact.kind == "side":
        return f"{phrase_text(fact.first)} {'on' if fact.value < 2 else 'at'} {SIDES[fact.value]}"
    if fact.kind == "relation":
        return f"{phrase_text(fact.first)} {RELATIONS[fact.value]} {phrase_text(fact.second)}"
    return phrase_text(fact.first)


def phrase_text(phrase: NounPhrase) -> str:
    words = [] if phrase.size is None else [list(SIZES)[phrase.size]]
    words += [] if phrase.colour is None else [list(COLOURS)[phrase.colour]]
    return " ".join([*words, "object" if phrase.shape is None else SHAPES[phrase.shape]])
