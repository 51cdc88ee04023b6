"""The interface of a way to compare an image with a text: `PairModel` for inference, `Method` for training.

An item (an image or a text) is a pytree of arrays with one row per item. It may be one vector, a mean and a variance,
or many token vectors. Only the pair model that prepared it looks inside.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from vacsr_jax.losses.contrastive import Labels, Terms
from vacsr_jax.ops.pairwise import count, map_pairs, shard_pairs
from vacsr_jax.towers.base import Encoded

Leaf = Any  # an array of a pytree (of jax or numpy), None, or what a transformation puts in its place


class Items(struct.PyTreeNode):
    """Items that hold more than one vector each: arrays [b ...] of the same b, sliced and counted together."""

    def __len__(self) -> int:
        return len(jax.tree.leaves(self)[0])

    def __getitem__(self, rows) -> Items:
        return jax.tree.map(lambda x: x[rows], self)


Item = Any  # an array [b, d], `Items`, or any other pytree of arrays [b ...]
Params = Any
Key = Any  # a `jax.Array`; None for a pair model without random draws
Found = Any  # what a pair model returns for every pair in training: logits [n m], or a tuple of such arrays


class PairScores(NamedTuple):
    """Scores of r x c pairs.

    Attributes:
      logit: [r, c] larger is better; `PairModel.meaning` says what it means.
      uncertainty: [r, c] mean latent standard deviation (PCME++: the sum of both variances), or None without a latent.
      label_score: [r, c] ranks pairs by how likely they are to be labelled; None: the logit does.
      match_score: [r, c] ranks pairs by how likely they are to match; None: the logit does.
    """

    logit: Float[Leaf, "r c"]
    uncertainty: Float[Leaf, "r c"] | None
    label_score: Float[Leaf, "r c"] | None = None
    match_score: Float[Leaf, "r c"] | None = None

    def by_label(self):
        """The score to rank by when the question is which text was written for an image."""
        return self.logit if self.label_score is None else self.label_score

    def by_match(self):
        """The score to rank by when the question is which texts are true of an image."""
        return self.logit if self.match_score is None else self.match_score


class Explained(NamedTuple):
    """Which places the tokens of a text found in an image, for b images with a text each.

    Attributes:
      weight: [b, l] how much a token counts, 0 to 1; 0 for pads.
      probability: [b, l] that the token has a place in the image. The product of probability^weight is the match
        probability.
      share: [b, l, p] how much of that is due to each place; sums to 1 over the places.
      regions: for each place the cells that it spans, counted row by row; none of them: the whole image.
    """

    weight: Float[Leaf, "b l"]
    probability: Float[Leaf, "b l"]
    share: Float[Leaf, "b l p"]
    regions: tuple[tuple[int, ...], ...]


class Meaning(NamedTuple):
    """What the numbers of a pair model mean, in one sentence each; None for a number that the model does not give."""

    logit: str
    probability: str | None
    uncertainty: str | None


class Scorer(struct.PyTreeNode):
    """What scoring needs of a pair model: a pytree of arrays, computed once from the model's parameters.

    A subclass must have `score_tile`. The defaults of the other methods are right for every model.
    """

    @property
    def gives_uncertainty(self) -> bool:
        """Whether the scores include an uncertainty."""
        return False

    def score_tile(self, images: Item, texts: Item) -> PairScores:
        """Scores [r, c] of every pair of r images and c texts."""
        raise NotImplementedError(f"{type(self).__name__} must have score_tile(images, texts)")

    def score_listed(self, images: Item, texts: Item) -> PairScores:
        """Scores [r, k] of every image [r ...] with its own k texts [r k ...]."""
        one_image = jax.vmap(lambda image, texts: self.score_tile(jax.tree.map(lambda x: x[None], image), texts))
        return jax.tree.map(lambda x: x[:, 0], one_image(images, texts))

    def calibrated(self, logit: Float[Leaf, "*b"]) -> Float[Leaf, "*b"]:
        """The logit whose sigmoid is the match probability, from the logit that a propensity model is trained with."""
        return logit

    def label_parts(self, images: Item, texts: Item) -> tuple[Float[Leaf, "r c"], Float[Leaf, "r c"]]:
        """Of every pair, the match logit a as it was trained, and the propensity h of a match to get the label.

        Raises:
          ValueError: if the model does not tell a match from a label.
        """
        raise ValueError(
            f"the model ({type(self).__name__}) does not tell a match from a label; train one with method=propensity"
        )

    def tile_function(self) -> Callable[[Any, Item, Item], PairScores]:
        """`score_tile`, or a faster kernel that gives the same scores on this machine; static under `jit`."""
        return type(self).score_tile

    def for_ranking(self) -> Scorer:
        """The scorer without what ranking does not need (the uncertainty)."""
        return self

    def in_precision(self, dtype: Any) -> Scorer:
        """The scorer with `dtype` for the matrices that multiply pairs; sums and biases stay float32."""
        return self

    def pairs_per_tile(self, tile_bytes: int, images: Item, texts: Item) -> int:
        """How many pairs of these items fit in a tile of `tile_bytes` of memory."""
        return 1 << 20


class PairModel(nn.Module):
    """Turns the towers' output for images and texts into scores of their pairs.

    A subclass is a Linen module. Its fields are plain values (or another pair model), since they are written into
    checkpoints. It must have `prepare` (or `prepare_image` and `prepare_text`) and `scorer`.
    """

    @property
    def wants_log_var(self) -> bool:
        """Whether the towers need a branch for `Encoded.log_var`; a subclass may set `wants_log_var = True`."""
        return False

    @property
    def has_latent(self) -> bool:
        """Whether a pair has a latent, from which training and `sample` draw."""
        return False

    @property
    def explains(self) -> bool:
        """Whether the model can say which token found which place (`explain`)."""
        return False

    @property
    def meaning(self) -> Meaning:
        """What the logit, the probability and the uncertainty mean."""
        raise NotImplementedError(f"{type(self).__name__} must say what its scores mean (`meaning`)")

    def prepare_image(self, encoded: Encoded) -> Item:
        """Turns encoded images into items ready to be scored."""
        return self.prepare(encoded.embedding)

    def prepare_text(self, encoded: Encoded) -> Item:
        """Turns encoded texts into items ready to be scored."""
        return self.prepare(encoded.embedding)

    def prepare(self, embedding: Float[Array, "b d"]) -> Item:
        """Turns the towers' embeddings, which are not normalized, into items."""
        raise NotImplementedError(f"{type(self).__name__} must have prepare(embedding)")

    def scorer(self) -> Scorer:
        """What inference needs of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must have scorer()")

    def __call__(self, images: Item, texts: Item, noise: Any = ()) -> Found:
        """What the loss needs of every pair: the logit [r, c] by default. `noise` comes from `draw_noise`."""
        return self.scorer().score_tile(images, texts).logit

    def draw_noise(self, key: Key, n: int, m: int) -> Any:
        """The random numbers of one training step for n x m pairs: a pytree of [n m ...], empty if nothing is drawn."""
        return ()

    def direction(self, items: Item) -> Leaf:
        """The vectors that a vector store holds, one per item: their cosines compare the items.

        Raises:
          ValueError: if an item has no such vector.
        """
        if not isinstance(items, jax.Array | np.ndarray) or items.ndim != 2:
            raise ValueError(f"{type(self).__name__}: an item is not one vector, so a vector store cannot hold it")
        return items

    def from_unit(self, vectors: Float[Array, "b d"]) -> Item:
        """Turns unit vectors, as files of embeddings hold them, into items.

        Raises:
          ValueError: if the model needs the length of an embedding, or anything besides its direction.
        """
        raise ValueError(
            f"{type(self).__name__} does not score unit vectors alone; score the images and texts themselves"
        )

    def sample(self, key: jax.Array, images: Item, texts: Item, n: int) -> Float[Array, "n r c"]:
        """n draws of every pair's match logit, for a model that `has_latent`."""
        raise NotImplementedError(f"{type(self).__name__} must have sample(key, images, texts, n)")

    def explain(self, images: Item, texts: Item) -> Explained:
        """Which places the tokens of each text found in its image, for as many images as texts.

        Raises:
          ValueError: if the model compares an image and a text as wholes.
        """
        raise ValueError(
            f"{type(self).__name__} compares an image and a text as wholes, so there is nothing to explain; "
            "load a model of method tokens, or of propensity.match=tokens"
        )

    def calibrate(self, params: Params, scores: PairScores, labels: np.ndarray) -> Params:
        """`params` with what turns logits into probabilities fitted to the scores and labels of held-out data.

        The ranking stays as it is. Most models have nothing to fit.
        """
        return params

    def noise_rate(self, params: Params) -> Float[Array, ""] | None:
        """The model's estimate of the share of training labels that are wrong; None if it makes no estimate."""
        return None

    def with_scale(self, params: Params, log_scale: Leaf, bias: Leaf | None = None) -> Params:
        """`params` changed so that the model starts from a known logit exp(log_scale) cos + bias, where it can.

        `bias` is None where only the scale is known (CLIP): then a bias stays as it is.
        """
        return params


class Batch(NamedTuple):
    """The input of a loss: n images and m texts, and how to compute it.

    Attributes:
      images, texts: items, as the pair model prepared them; split over the mesh.
      labels: [n, m] how much a pair is a match, 0 to 1.
      valid: bool [n, m] which pairs count.
      key: the random key of the step; None for a pair model without a latent.
      step: int32, how many steps are done.
      mesh, tile_pairs, dtype: the devices, how many pairs are computed at once, and the type of their products.
    """

    images: Item
    texts: Item
    labels: Labels
    valid: Bool[Array, "n m"]
    key: Key
    step: Int[Array, ""]
    mesh: Mesh
    tile_pairs: int
    dtype: Any


Loss = Callable[[Found, Batch, ConfigDict], tuple[Float[Array, ""], Terms]]
Objective = Callable[[Any, Params, Batch, ConfigDict], tuple[Float[Array, ""], Terms]]  # of the method's own pair model
Floor = Callable[[Float[Array, "n m"]], Float[Array, "n m"]]


@dataclass(frozen=True)
class Method:
    """One way to train: a pair model and its loss.

    Attributes:
      about: one line that says whether it is a loss on a known model, a model of its own, or a wrapper around a model.
      model: the class of its pair model.
      build: (config, d, initial_logit) -> pair model for embeddings of d numbers. `initial_logit` is the base rate of
        positives as log odds. A model whose logit is a probability should start there.
      loss: (what the pair model returns for every pair, batch, config) -> loss, and its terms by name. It may be left
        out if there is an `objective`.
      label_loss: (what the pair model returns, floor, batch, config) -> loss and terms, when a propensity model wraps
        this one. `floor` raises label logits to at least the odds of a wrong label. None: `loss` of the raised logits.
      objective: (pair model, its params, batch, config) -> loss and terms; None: `loss` of all pairs.
      with_classes: whether the texts may be classes; False: text i must be the one that was drawn with image i.
      options: (config, d) -> fields of `ImageTextModel` that this method sets.
    """

    about: str
    model: type[PairModel]
    build: Callable[[ConfigDict, int, float], PairModel]
    loss: Loss | None = None
    label_loss: Callable[[Found, Floor, Batch, ConfigDict], tuple[Float[Array, ""], Terms]] | None = None
    objective: Objective | None = None
    with_classes: bool = True
    options: Callable[[ConfigDict, int], dict[str, Any]] = lambda config, dim: {}

    def loss_above(self, floor: Floor, found: Found, batch: Batch, config: ConfigDict):
        """The loss, and its terms, of label logits that `floor` has raised."""
        if self.label_loss is not None:
            return self.label_loss(found, floor, batch, config)
        return self._loss()(floor(found), batch, config)

    def loss_of_batch(self, pair: PairModel, params: Params, batch: Batch, config: ConfigDict):
        """The loss of a batch and its terms; differentiable in `params` and in the batch's items."""
        if self.objective is not None:
            return self.objective(pair, params, batch, config)
        return self._loss()(all_pairs(pair, params, batch), batch, config)

    def _loss(self) -> Loss:
        if self.loss is None:
            raise ValueError(f"method {self.about!r}: it has no loss; give it a loss, or a label_loss if it is wrapped")
        return self.loss


def all_pairs(pair: PairModel, params: Params, batch: Batch) -> Found:
    """Applies the pair model to all n x m pairs, in tiles; each device computes the rows of its own images."""
    noise = pair.draw_noise(batch.key, count(batch.images), count(batch.texts))

    def local_rows(params, rows, columns, noise):
        def tile(images, texts, noise):
            found = pair.apply({"params": params}, images, texts, noise)
            shape = (count(images), count(texts))
            for leaf in jax.tree.leaves(found):
                if leaf.shape[:2] != shape:
                    raise ValueError(
                        f"{type(pair).__name__}: got an array of shape {list(leaf.shape)} for the pairs of {shape[0]} "
                        f"images and {shape[1]} texts, expected [{shape[0]}, {shape[1]}]"
                    )
            return found

        return map_pairs(tile, rows, columns, noise, tile_pairs=batch.tile_pairs)

    return shard_pairs(local_rows, batch.mesh, params, batch.images, batch.texts, noise)


def of_logits(loss: Callable) -> Loss:
    """Turns a loss of (logits, labels, valid) into a method's loss."""
    return lambda logits, batch, config: loss(logits, batch.labels, batch.valid)


def import_named(path: str, kind: type, *, as_class: bool = False) -> Any:
    """Imports the object at "package.module:Name", which must be a `kind`, or a subclass of it if `as_class`.

    The module must be importable. Modules of Python's standard library are refused, so that a damaged or hostile file
    cannot name one that does something when it is imported.

    Raises:
      ValueError: if there is no such module or name, or the object is something else.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"got {path!r:.80}, expected my_package.my_module:Name")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(
            f"{path!r:.80}: a module of Python's standard library is not imported by name; "
            "expected my_package.my_module:Name"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{path}: {error}; install its package, or put its folder on PYTHONPATH") from error
    if not hasattr(module, name):
        raise ValueError(f"{path}: {module_name} has no {name}")
    found = getattr(module, name)
    fits = isinstance(found, type) and issubclass(found, kind) if as_class else isinstance(found, kind)
    if not fits:
        raise ValueError(f"{path}: got {found!r:.80}, expected a {kind.__name__}")
    return found
