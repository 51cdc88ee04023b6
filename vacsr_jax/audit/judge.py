"""A model that judges some images of a data set with all its captions: its items, and its fit to the labels."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.audit import label_model
from vacsr_jax.audit.label_model import LabelModel
from vacsr_jax.data.source import Source, TextInputs, text_inputs
from vacsr_jax.data.vectors import Vectors
from vacsr_jax.ops.pairwise import map_pairs
from vacsr_jax.pair.base import Item, Scorer
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.scoring.pairs import pairs_per_tile

BLOCK, BLOCKS = 500, 4  # images of a block that the label model is fitted to, and how many blocks at most


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A data set with its labels: `image_of` int64 [m] is the image that each caption of the source is labelled with.

    It is the image that the source names, unless a run trains on wrong labels (`data.noise`).
    """

    source: Source
    image_of: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some images of a source, in the form that `scoring.embed` takes."""

    source: Any
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [self.source.ids[int(i)] for i in self.rows]

    def image(self, index: int) -> np.ndarray:
        return self.source.image(int(self.rows[index]))

    def __getattr__(self, name: str) -> Any:
        if name != "gather":
            raise AttributeError(name)
        gather = self.source.gather  # an AttributeError here says that the source has none
        return lambda index: gather(self.rows[index])


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained model, the data, and `rows`: the images that it judges, none of which it was trained on if it should be
    fair."""

    trained: Pretrained
    data: Labelled
    rows: np.ndarray

    @functools.cached_property
    def texts(self) -> TextInputs:
        """What the text tower takes for every caption."""
        return text_inputs(self.data.source, self.trained.tokenizer)[0]

    def image_items(self, rows: np.ndarray) -> Item:
        """Images of the source as items, numpy."""
        model = self.trained.model
        preprocess = None if model.towers_config.takes_vectors else self.trained.preprocess
        return embed_images(model, self.trained.params, Rows(self.data.source, rows), preprocess)

    def text_items(self, index: np.ndarray) -> Item:
        """Captions of the source as items, numpy."""
        texts = self.texts.take(index) if isinstance(self.texts, Vectors) else self.texts[index]
        return embed_texts(self.trained.model, self.trained.params, texts)

    def parts(self, images: Item, texts: Item) -> tuple[np.ndarray, np.ndarray]:
        """The match logit a and the propensity h of every pair, [n, m] each."""
        scorer = prepare_scorer(self.trained.model, self.trained.params)
        size = pairs_per_tile(scorer, images, texts)
        a, h = label_parts(scorer, *jax.tree.map(jnp.asarray, (images, texts)), tile_pairs=size)
        return np.asarray(a), np.asarray(h)

    def fit(self, seed: int = 0) -> LabelModel:
        """The label model of blocks of this judge's images with their own captions, drawn at random.

        Raises:
          ValueError: if there are fewer than two images, or the model does not tell a match from a label.
        """
        rng = np.random.default_rng(seed)
        rows = rng.permutation(self.rows)
        size = min(BLOCK, len(rows))
        if size < 2:
            raise ValueError(f"audit: got {size} image to judge, expected at least 2, and better a few hundred")
        blocks = []
        for start in range(0, min(len(rows) // size, BLOCKS) * size, size):
            chosen = rows[start : start + size]
            place = np.full(len(self.data.source), -1)
            place[chosen] = np.arange(size)
            captions = np.flatnonzero(place[self.data.image_of] >= 0)
            if not len(captions):
                continue
            image = self.data.image_of[captions]
            a, h = self.parts(self.image_items(chosen), self.text_items(captions))
            blocks.append((a, h, place[image] == np.arange(size)[:, None], image))
        if not blocks:
            raise ValueError("audit: no image has a caption")
        return label_model.fit(blocks)


@functools.partial(jax.jit, static_argnames="tile_pairs")
def label_parts(scorer: Scorer, images: Item, texts: Item, *, tile_pairs: int) -> tuple[jax.Array, jax.Array]:
    """`Scorer.label_parts` of every pair of images and texts."""
    return map_pairs(lambda v, t, _: scorer.label_parts(v, t), images, texts, tile_pairs=tile_pairs)
