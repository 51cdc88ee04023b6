"""Scenes: synthetic pictures whose graded relevance to every caption is known.

A scene is a 2 x 2 grid of cells on one of three backgrounds; one to three cells hold an object with a shape, a colour
and a size. A caption states one to three facts, all true of the scene it was written for. Since the facts are known, it
is also known which captions are true of which other scenes. Training only sees which caption was written for which
scene. Everything is generated from the seed; nothing is stored.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vacsr_jax.data.source import ArraySource

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.62, 0.20),
    "blue": (0.15, 0.30, 0.88),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.60, 0.20, 0.72),
    "cyan": (0.25, 0.80, 0.85),
}
SIZES = {"small": 4.4, "large": 6.8}  # radius in pixels
BACKGROUNDS = {"white": 0.93, "grey": 0.50, "black": 0.08}
GREYS = np.repeat(np.array(list(BACKGROUNDS.values()))[:, None], 3, axis=1)
COUNTS = ("no", "one", "two", "three")
SIDES = ("left", "right", "top", "bottom")
RELATIONS = ("left of", "right of", "above", "below")
EMPTY = -1

CELL = 16  # pixels; a cell is one patch of the tiny tower
JITTER = 0.5  # pixels between an object and the middle of its cell, at most
IMAGE_SIZE = 2 * CELL
CAPTIONS_PER_SCENE = 5
MAX_WORDS = 18
OBJECT_COUNT_WEIGHTS = (0.25, 0.40, 0.35)
SPLITS = ("train", "validation", "test", "test_base", "test_novel")

# The cells on each side, and the ordered pairs of cells in each relation. Cells: 0 1 / 2 3.
_ON_SIDE = {"left": (0, 2), "right": (1, 3), "top": (0, 1), "bottom": (2, 3)}
_RELATED = {
    "left of": [(a, b) for a in (0, 2) for b in (1, 3)],
    "right of": [(a, b) for a in (1, 3) for b in (0, 2)],
    "above": [(a, b) for a in (0, 1) for b in (2, 3)],
    "below": [(a, b) for a in (2, 3) for b in (0, 1)],
}


class Layout(NamedTuple):
    """The facts of n scenes: `background` int [n]; `shape`, `colour`, `size` int [n, 4], EMPTY in empty cells."""

    background: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray

    def take(self, index) -> Layout:
        return Layout(*(part[index] for part in self))


class NounPhrase(NamedTuple):
    """What a caption says about an object. None means unstated; at least one field is given."""

    size: int | None
    colour: int | None
    shape: int | None


class Fact(NamedTuple):
    """One statement. `kind` is exists, absent, side, relation, background or count; `value` is an index into its words.

    Exists, absent and side are about the object `first`, a relation about `first` and `second`.
    """

    kind: str
    value: int = 0
    first: NounPhrase = NounPhrase(None, None, None)
    second: NounPhrase = NounPhrase(None, None, None)


def identity(layout: Layout) -> np.ndarray:
    """Encodes the facts of each scene in an int64 [n]. Codes are equal if and only if all facts are equal."""
    per_object = len(SHAPES) * len(COLOURS) * len(SIZES)
    kind = (layout.shape * len(COLOURS) + layout.colour) * len(SIZES) + layout.size
    digit = np.where(layout.shape == EMPTY, 0, kind + 1).astype(np.int64)
    return layout.background + len(BACKGROUNDS) * (digit @ (per_object + 1) ** np.arange(4, dtype=np.int64))


def is_novel(layout: Layout) -> np.ndarray:
    """bool [n]: whether the scene has one of the six colour x shape combinations that base-to-novel holds out."""
    return np.any(is_held_out(layout.colour, layout.shape) & (layout.shape != EMPTY), axis=1)


def is_held_out(colour, shape):
    """Whether a colour with a shape is one of those combinations; of ints, or elementwise."""
    return (colour + shape) % 4 == 3


def bucket(code: np.ndarray) -> np.ndarray:
    """Hashes a scene's identity to 0..9 (splitmix64). It decides the split of a scene, whatever the seed."""
    with np.errstate(over="ignore"):
        x = code.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(10)).astype(int)


def draw_layouts(rng: np.random.Generator, n: int) -> Layout:
    """Draws n random scenes; two may have the same identity."""
    present = rng.choice([1, 2, 3], size=n, p=OBJECT_COUNT_WEIGHTS)
    order = np.argsort(rng.random((n, 4)), axis=1)
    shape, colour, size = (rng.integers(0, len(v), size=(n, 4)) for v in (SHAPES, COLOURS, SIZES))
    empty = order >= present[:, None]
    parts = (np.where(empty, EMPTY, part) for part in (shape, colour, size))
    return Layout(rng.integers(0, len(BACKGROUNDS), size=n), *parts)


def _belongs(layout: Layout, split: str, held_out: bool) -> np.ndarray:
    hashed = bucket(identity(layout))
    chosen = hashed >= 2 if split == "train" else hashed == (0 if split == "validation" else 1)
    if split == "test_novel":
        return chosen & is_novel(layout)
    if split == "test_base" or (held_out and split in ("train", "validation")):
        return chosen & ~is_novel(layout)
    return chosen


def distinct_layouts(rng: np.random.Generator, n: int, split: str, held_out: bool) -> Layout:
    """Draws n scenes of `split` with distinct identities. Splits never share a scene, whatever their seeds.

    Raises:
      ValueError: if `split` is unknown, or the split holds fewer than n distinct scenes.
    """
    if split not in SPLITS:
        raise ValueError(f"scenes split: got {split!r}, expected one of {', '.join(SPLITS)}")
    kept = draw_layouts(rng, 0)
    for _ in range(30):
        drawn = draw_layouts(rng, 4 * n + 1000)
        drawn = drawn.take(_belongs(drawn, split, held_out))
        kept = Layout(*(np.concatenate(both) for both in zip(kept, drawn, strict=True)))
        _, first = np.unique(identity(kept), return_index=True)
        kept = kept.take(np.sort(first))
        if len(kept.background) >= n:
            return kept.take(slice(0, n))
    raise ValueError(f"scenes: asked for {n} distinct scenes of {split}, found {len(kept.background)}; ask for fewer")


def holds(fact: Fact, layout: Layout) -> np.ndarray:
    """bool [n]: whether the fact is true of each scene."""
    if fact.kind == "background":
        return layout.background == fact.value
    if fact.kind == "count":
        return np.sum(layout.shape != EMPTY, axis=1) == fact.value
    first = _matches(fact.first, layout)
    if fact.kind in ("exists", "absent"):
        return np.any(first, axis=1) == (fact.kind == "exists")
    if fact.kind == "side":
        return np.any(first[:, _ON_SIDE[SIDES[fact.value]]], axis=1)
    second = _matches(fact.second, layout)
    return np.any([first[:, a] & second[:, b] for a, b in _RELATED[RELATIONS[fact.value]]], axis=0)


def _matches(phrase: NounPhrase, layout: Layout) -> np.ndarray:
    found = layout.shape != EMPTY
    for wanted, part in zip(phrase, (layout.size, layout.colour, layout.shape), strict=True):
        if wanted is not None:
            found = found & (part == wanted)
    return found


def relevance(captions: Sequence[tuple[Fact, ...]], layout: Layout) -> np.ndarray:
    """Returns the graded truth, float32 [n scenes, m captions]: the share of a caption's facts that a scene satisfies.

    1 is a true match: everything the caption says holds. Less than 1 is a partly true caption.
    """
    facts = {fact: i for i, fact in enumerate(dict.fromkeys(f for caption in captions for f in caption))}
    truth = np.stack([holds(fact, layout) for fact in facts], axis=1).astype(np.float32)
    states = np.zeros((len(facts), len(captions)), np.float32)
    for j, caption in enumerate(captions):
        states[[facts[fact] for fact in caption], j] = 1 / len(caption)
    # In float32 a sum of three thirds may differ from 1, but a match must be exactly 1.
    return np.round(truth @ states, 4)


def write_facts(rng: random.Random, scene: Layout, weights: Sequence[float], absent: float = 0.0) -> tuple[Fact, ...]:
    """Writes one to three distinct true facts about one scene; `weights` are the odds of 1, 2 and 3 facts.

    `scene` is a `Layout` of plain numbers: `background` an int, the others lists of four. `absent` is the probability
    that a fact says what the scene lacks.
    """
    wanted = rng.choices((1, 2, 3), weights)[0]
    facts: list[Fact] = []
    while len(facts) < wanted:
        lacks = absent > 0 and rng.random() < absent
        fact = Fact("absent", 0, _write_absence(rng, scene)) if lacks else _write_fact(rng, scene)
        if fact not in facts:
            facts.append(fact)
    return tuple(facts)


def _write_fact(rng: random.Random, scene: Layout) -> Fact:
    cells = [c for c in range(4) if scene.shape[c] != EMPTY]
    kinds = ("exists", "side", "relation", "background", "count")
    kind = rng.choices(kinds, (0.35, 0.2, 0.25 if len(cells) > 1 else 0.0, 0.12, 0.08))[0]
    if kind == "background":
        return Fact(kind, int(scene.background))
    if kind == "count":
        return Fact(kind, len(cells))
    if kind == "relation":
        a, b = rng.sample(cells, 2)
        options = [i for i, name in enumerate(RELATIONS) if (a, b) in _RELATED[name]]
        return Fact(kind, rng.choice(options), _write_phrase(rng, scene, a), _write_phrase(rng, scene, b))
    cell = rng.choice(cells)
    phrase = _write_phrase(rng, scene, cell)
    if kind == "side":
        return Fact(kind, rng.choice([i for i, side in enumerate(SIDES) if cell in _ON_SIDE[side]]), phrase)
    return Fact(kind, 0, phrase)


def _write_phrase(rng: random.Random, scene: Layout, cell: int) -> NounPhrase:
    size, colour, shape = scene.size[cell], scene.colour[cell], scene.shape[cell]
    say_size, say_colour, say_shape = rng.random() < 0.35, rng.random() < 0.75, rng.random() < 0.85
    if not (say_size or say_colour or say_shape):
        say_colour = True
    return NounPhrase(size if say_size else None, colour if say_colour else None, shape if say_shape else None)


def _write_absence(rng: random.Random, scene: Layout) -> NounPhrase:
    """A colour, a shape or both, of which the scene has no object."""
    shown = set(zip(scene.colour, scene.shape, strict=True))
    while True:
        colour, shape = rng.choice((None, *range(len(COLOURS)))), rng.choice((None, *range(len(SHAPES))))
        if (colour, shape) != (None, None) and not any(colour in (None, c) and shape in (None, s) for c, s in shown):
            return NounPhrase(None, colour, shape)


def phrase_text(phrase: NounPhrase) -> str:
    words = [] if phrase.size is None else [list(SIZES)[phrase.size]]
    words += [] if phrase.colour is None else [list(COLOURS)[phrase.colour]]
    return " ".join(["a", *words, "object" if phrase.shape is None else SHAPES[phrase.shape]])


def fact_text(fact: Fact) -> str:
    if fact.kind == "background":
        return f"a {list(BACKGROUNDS)[fact.value]} background"
    if fact.kind == "count":
        return f"{COUNTS[fact.value]} object{'s' if fact.value > 1 else ''} in all"
    if fact.kind == "exists":
        return phrase_text(fact.first)
    if fact.kind == "absent":
        return phrase_text(fact.first).replace("a", "no", 1)
    if fact.kind == "side":
        preposition = "on the" if fact.value < 2 else "at the"
        return f"{phrase_text(fact.first)} {preposition} {SIDES[fact.value]}"
    return f"{phrase_text(fact.first)} {RELATIONS[fact.value]} {phrase_text(fact.second)}"


def caption_text(facts: tuple[Fact, ...]) -> str:
    return " and ".join(fact_text(fact) for fact in facts)


def write_captions(
    rng: random.Random, layout: Layout, weights: Sequence[float], absent: float = 0.0
) -> list[list[tuple[Fact, ...]]]:
    """Writes CAPTIONS_PER_SCENE captions per scene. Captions of more than MAX_WORDS words are drawn again."""
    captions = []
    for scene in map(Layout._make, zip(*(part.tolist() for part in layout), strict=True)):
        own: list[tuple[Fact, ...]] = []
        while len(own) < CAPTIONS_PER_SCENE:
            facts = write_facts(rng, scene, weights, absent)
            if len(caption_text(facts).split()) <= MAX_WORDS:
                own.append(facts)
        captions.append(own)
    return captions


def draw_images(
    rng: np.random.Generator, layout: Layout, jitter: float = JITTER, backgrounds: np.ndarray = GREYS
) -> np.ndarray:
    """Draws uint8 [n, 32, 32, 3]: anti-aliased objects with jittered position and colour, and weak pixel noise.

    An object lies at most `jitter` pixels from the middle of its cell in each direction. Beyond 1 pixel, large objects
    leave their cells, and of two objects that overlap, the one in the later cell covers the other. `backgrounds` [k, 3]
    are their colours, 0 to 1.
    """
    n = len(layout.background)
    ground = backgrounds[layout.background] + rng.normal(0, 0.03, (n, 3))
    pixels = ground[:, None, None, :] * np.ones((1, IMAGE_SIZE, IMAGE_SIZE, 1))
    scene, cell = np.nonzero(layout.shape != EMPTY)
    centre = rng.uniform(-jitter, jitter, (2, len(scene)))
    colours = np.array(list(COLOURS.values()))[layout.colour[scene, cell]]
    colours = (colours + rng.normal(0, 0.03, colours.shape))[:, None, None, :]
    radius = np.array(list(SIZES.values()))[layout.size[scene, cell]]
    for c in range(4):
        at, where = cell == c, scene[cell == c]
        inside = _coverage(layout.shape[where, c], radius[at], c, centre[:, at])[..., None]
        if jitter <= JITTER:  # the tip of a large triangle passes its cell's edge by a fraction of a pixel
            inside = inside * _own_cell(c)[..., None]
        pixels[where] = inside * colours[at] + (1 - inside) * pixels[where]
    pixels += rng.normal(0, 0.02, pixels.shape)
    return np.clip(np.round(255 * pixels), 0, 255).astype(np.uint8)


def _own_cell(cell: int) -> np.ndarray:
    """bool [32, 32]: which pixels lie in a cell."""
    place = np.arange(IMAGE_SIZE) // CELL
    return (place[:, None] == cell // 2) & (place == cell % 2)


def _coverage(shape: np.ndarray, radius: np.ndarray, cell: int, centre: np.ndarray) -> np.ndarray:
    """Returns the share of each pixel that an object covers, [k, 32, 32], from the signed distance to its outline.

    `centre` [2, k] is relative to the middle of the cell.
    """
    grid = np.arange(IMAGE_SIZE) - (CELL - 1) / 2
    column, row = grid - CELL * (cell % 2), grid - CELL * (cell // 2)
    x = (column[None, None, :] - centre[0][:, None, None]) * np.ones((1, IMAGE_SIZE, 1))
    y = (row[None, :, None] - centre[1][:, None, None]) * np.ones((1, 1, IMAGE_SIZE))
    r = radius[:, None, None]
    ax, ay = np.abs(x), np.abs(y)
    slope = np.sqrt(0.75)
    distance = np.select(
        [(shape == i)[:, None, None] for i in range(len(SHAPES))],
        [
            r - np.hypot(x, y),
            0.85 * r - np.maximum(ax, ay),
            0.53 * r - np.maximum(y, slope * ax - 0.5 * y),
            np.maximum(
                np.minimum(0.35 * r - ax, 0.95 * r - ay),
                np.minimum(0.35 * r - ay, 0.95 * r - ax),
            ),
        ],
    )
    return np.clip(distance + 0.5, 0, 1)


@dataclass(frozen=True)
class SceneSource(ArraySource):
    """Scenes as a `Source`, with the truth of every pair, which no real data set has."""

    layout: Layout = field(kw_only=True)
    facts: Sequence[tuple[Fact, ...]] = field(kw_only=True)

    def relevance(self) -> np.ndarray:
        """float32 [n images, m captions] in [0, 1]; see `relevance`."""
        return relevance(self.facts, self.layout)


@functools.lru_cache(maxsize=4)
def make_scenes(
    split: str,
    n: int,
    *,
    seed: int,
    facts_per_caption: tuple[float, float, float],
    held_out: bool = False,
    jitter: float = JITTER,
    absent: float = 0.0,
) -> SceneSource:
    """Makes n scenes of a split with five captions each. Equal arguments give equal scenes; recent results are cached.

    Args:
      split: train, validation or test; or test_base or test_novel, the test scenes without or with a held-out
        combination.
      n: number of scenes.
      seed: seed of scenes, captions and pixels.
      facts_per_caption: odds of 1, 2 and 3 facts in a caption. A caption with fewer facts is true of more scenes, so
        these odds set the share of false negatives. Captions of more than MAX_WORDS words are drawn again, so .25,
        .40, .35 become about .27, .45, .28.
      held_out: whether training and validation scenes leave out the six held-out colour x shape combinations.
      jitter: pixels between an object and the middle of its cell, at most; see `draw_images`.
      absent: share of facts that say what a scene lacks: "no red circle".

    Raises:
      ValueError: if `split` is unknown, n is too large, the odds are not three non-negative numbers, an object could
        leave its cell altogether, or `absent` is no share.
    """
    if not 0 <= absent <= 1:
        raise ValueError(f"data.absent: got {absent}, expected a share of the facts, 0 to 1")
    if not 0 <= jitter <= CELL / 2:
        raise ValueError(f"data.jitter: got {jitter}, expected 0 to {CELL // 2} pixels, half a cell")
    weights = facts_per_caption
    if len(weights) != 3 or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"facts_per_caption: got {weights}, expected the odds of 1, 2 and 3 facts, e.g. (.25, .4, .35)"
        )
    rng = np.random.default_rng([seed, SPLITS.index(split) if split in SPLITS else 0])
    layout = distinct_layouts(rng, n, split, held_out)
    captions = write_captions(random.Random(f"{seed} {split}"), layout, weights, absent)
    images = draw_images(rng, layout, jitter)
    images.setflags(write=False)  # the cached array is shared
    return SceneSource(
        images=images,
        captions=[[caption_text(facts) for facts in own] for own in captions],
        ids=[f"{split}-{code}" for code in identity(layout)],
        layout=layout,
        facts=[facts for own in captions for facts in own],
    )
