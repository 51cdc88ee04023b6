"""A match as a conjunction over tokens: each token of the text must find its place in the image."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from vacsr_jax.losses import contrastive
from vacsr_jax.ops.products import product
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.base import Explained, Items, Leaf, Meaning, Method, PairModel, PairScores, Scorer, of_logits
from vacsr_jax.pair.conjunction import logit_of_all
from vacsr_jax.towers.base import Encoded

PLACES = ("whole", "cells", "pairs")
MOST_IN_PAIRS = 16  # cells; more would make more than 240 ordered pairs
ABSENT = -1e9  # the logarithm of a weight of zero


class Places(Items):
    """The places of images."""

    vectors: Leaf  # [b, p, d] unit vectors
    weights: Leaf  # [b, p] 1, or 0 for what is no place of this image


class Claims(Items):
    """The tokens of texts, each of which is a claim."""

    vectors: Leaf  # [b, l, d] unit vectors
    weights: Leaf  # [b, l] how much a claim counts, 0 to 1; 0 for pads
    biases: Leaf  # [b, l]


class TokensScorer(Scorer):
    """The parameters of a `TokensModel` in the form that scoring needs."""

    scale: Leaf  # []
    calibration: Leaf  # [2]
    dtype: Any = struct.field(pytree_node=False, default=None)  # of the products; None: that of the vectors

    def score_tile(self, images: Places, texts: Claims) -> PairScores:
        return PairScores(logit_of_all(self.claim_logits(images, texts), log(texts.weights).T, axis=1), None)

    def claim_logits(self, images: Places, texts: Claims) -> Float[Array, "r l c"]:
        """log sum_p exp(scale <t_l, p>) + b_l, the log odds that token l has its place in the image."""
        (r, p, d), (c, length, _) = images.vectors.shape, texts.vectors.shape
        # Sums over places, and then over tokens, go along outer axes, which a CPU does many pairs at a time.
        claims = jnp.swapaxes(self.scale * texts.vectors, 0, 1).reshape(length * c, d)
        fits = product(images.vectors.reshape(r * p, d), claims.T.astype(self.dtype or claims.dtype))
        found = jax.nn.logsumexp(fits.reshape(r, p, length * c) + log(images.weights)[:, :, None], axis=1)
        return found.reshape(r, length, c) + texts.biases.T

    def calibrated(self, logit: Float[Leaf, "*b"]) -> Float[Leaf, "*b"]:
        return self.calibration[0] * logit + self.calibration[1]

    def explain(self, images: Places, texts: Claims) -> tuple[Float[Array, "b l"], Float[Array, "b l p"]]:
        """The probability of each claim in the text's own image, and the share that each place has in it."""
        fits = jnp.einsum("bpd,bld->blp", images.vectors, self.scale * texts.vectors) + log(images.weights)[:, None]
        return nn.sigmoid(jax.nn.logsumexp(fits, axis=-1) + texts.biases), nn.softmax(fits)

    def in_precision(self, dtype: Any) -> TokensScorer:
        return self.replace(dtype=dtype)

    def pairs_per_tile(self, tile_bytes: int, images: Places, texts: Claims) -> int:
        """A pair takes memory for how well each token fits each place, for the exponentials of that, and for the text,
        of which a list of candidates needs a copy."""
        (_, p, d), (_, length, _) = images.vectors.shape, texts.vectors.shape
        return max(1, tile_bytes // (4 * length * (2 * p + d)))


class TokensModel(PairModel):
    """log P(match) = sum_l w_l log sigmoid(z_l),  z_l = log sum_p exp(scale <t_l, p>) + b_l.

    l runs over the text's tokens and p over the image's places. A token is a claim, which holds if the image has a
    place for it, and a text is true of an image if all its claims hold: a probabilistic "and" of "or"s on top of late
    interaction (Khattab and Zaharia 2020; Yao et al. 2022), which takes a mean of maxima.

    t_l = unit(linear(token l)), w_l = sigmoid(linear(token l)) and b_l = linear(token l). Places are the image's cells,
    unit(linear(token)); the pooled image, unit(linear(embedding)); and ordered pairs of cells, in which relations are
    seen: unit(linear(gelu(left(cell 1) + right(cell 2)))). Cells are the patches. A class token is none, since it is
    the pooled image. A grid of more than `places_at_most` patches is averaged over a coarser grid first.

    Under a propensity model the product is too low, since c makes up for that. Two numbers, `calibration`, turn its
    logit into that of the match probability. Training does not move them; see `pair.calibration`.

    Attributes:
      dim: d, the dimension of t and p.
      places: "whole": the pooled image alone; "cells": and the cells; "pairs": and ordered pairs of cells.
      places_at_most: how many cells an image has at most.
      scale: the scale at the start.
      bias: b_l at the start.
      token_bias: whether each token has its own b_l; False: all share one.
      gate: whether tokens have weights; False: w_l = 1.
    """

    explains = True
    dim: int
    places: str
    places_at_most: int
    scale: float
    bias: float
    token_bias: bool
    gate: bool

    @property
    def meaning(self) -> Meaning:
        return Meaning(
            "log odds that the pair is labelled a match",
            "that every token of the text has its place in the image",
            None,
        )

    def setup(self):
        if self.places not in PLACES:
            raise ValueError(f"tokens.places: got {self.places!r}, expected one of {', '.join(PLACES)}")
        self.log_scale = self.param("log_scale", lambda key: jnp.asarray(math.log(self.scale), jnp.float32))
        self.calibration = self.param("calibration", lambda key: jnp.array([1.0, 0.0]))
        self.whole = nn.Dense(self.dim)
        if self.places != "whole":
            self.cell = nn.Dense(self.dim)
        if self.places == "pairs":
            self.left, self.right = nn.Dense(4 * self.dim), nn.Dense(4 * self.dim, use_bias=False)
            self.pair = nn.Dense(self.dim)
        self.claim = nn.Dense(self.dim)
        if self.gate:
            self.weight = nn.Dense(1, kernel_init=nn.initializers.zeros)
        start = nn.initializers.constant(self.bias)
        if self.token_bias:
            self.claim_bias = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=start)
        else:
            self.shared_bias = self.param("shared_bias", start, ())

    def prepare_image(self, encoded: Encoded) -> Places:
        """The places of each image."""
        vectors = [self.whole(encoded.embedding)[:, None]]
        weights = [jnp.ones_like(vectors[0][..., 0])]
        if self.places != "whole":
            cells, valid = (x[:, encoded.class_tokens :] for x in in_full(encoded))
            cells, valid = coarser(cells, valid, self.places_at_most)
            vectors.append(self.cell(cells))
            weights.append(valid)
            if self.places == "pairs":
                first, second = ordered_pairs(cells.shape[1])
                vectors.append(self.pair(nn.gelu(self.left(cells)[:, first] + self.right(cells)[:, second])))
                weights.append(valid[:, first] * valid[:, second])
        return Places(unit(jnp.concatenate(vectors, axis=1)), jnp.concatenate(weights, axis=1))

    def prepare_text(self, encoded: Encoded) -> Claims:
        """The claims of each text."""
        tokens, valid = in_full(encoded)
        biases = self.claim_bias(tokens)[..., 0] if self.token_bias else jnp.full(valid.shape, self.shared_bias)
        weights = nn.sigmoid(self.weight(tokens)[..., 0]) if self.gate else 1
        return Claims(unit(self.claim(tokens)), weights * valid, biases)

    def explain(self, images: Places, texts: Claims) -> Explained:
        return Explained(texts.weights, *self.scorer().explain(images, texts), self.regions(images.vectors.shape[1]))

    @nn.nowrap
    def direction(self, items: Places | Claims) -> Leaf:
        """One vector per item for the first stage of a search: the mean of an image's places, the weighted sum of a
        text's claims. Their inner product is the weighted mean fit of claims and places. It proposes candidates, which
        the conjunction then orders; see `experiments/tokens`.
        """
        weights = items.weights[..., None]
        total = (weights * items.vectors).sum(axis=1)
        return total / weights.sum(axis=1) if isinstance(items, Places) else total

    @nn.nowrap
    def regions(self, places: int) -> tuple[tuple[int, ...], ...]:
        """The cells that each of an image's places spans; none for the pooled image."""
        cells = {"whole": 0, "cells": places - 1, "pairs": math.isqrt(places - 1)}[self.places]
        pairs = zip(*(x.tolist() for x in ordered_pairs(cells)), strict=True) if self.places == "pairs" else ()
        return ((), *((i,) for i in range(cells)), *pairs)

    def scorer(self) -> TokensScorer:
        return TokensScorer(jnp.exp(self.log_scale), self.calibration)


def in_full(encoded: Encoded) -> tuple[Float[Array, "b l w"], Float[Array, "b l"]]:
    """The tokens, and 1 or 0 for whether they are valid, in float32 (or float64)."""
    dtype = jnp.promote_types(encoded.tokens.dtype, jnp.float32)
    return encoded.tokens.astype(dtype), encoded.valid.astype(dtype)


def log(weights: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The logarithm of weights; `ABSENT` for a weight of zero, so that nothing is infinite."""
    some = weights > 0
    return jnp.where(some, jnp.log(jnp.where(some, weights, 1)), ABSENT)


def ordered_pairs(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second cell of each ordered pair of two cells.

    Raises:
      ValueError: if there are too many pairs.
    """
    if cells > MOST_IN_PAIRS:
        raise ValueError(
            f"tokens.places=pairs: {cells} cells make {cells * (cells - 1):,} pairs, expected {MOST_IN_PAIRS} cells at "
            f"most; set tokens.places_at_most={MOST_IN_PAIRS}, or tokens.places=cells"
        )
    first, second = np.nonzero(~np.eye(cells, dtype=bool))
    return first, second


def coarser(
    tokens: Float[Array, "b p w"], valid: Float[Array, "b p"], at_most: int
) -> tuple[Float[Array, "b q w"], Float[Array, "b q"]]:
    """Averages the valid tokens of a square grid over a grid of at most `at_most` cells, and says which are valid.

    Row (or column) i of the g new ones covers the old ones from floor(i k / g) to ceil((i + 1) k / g), as adaptive
    average pooling does, so that k need not be a multiple of g.

    Raises:
      ValueError: if the tokens are not a square grid.
    """
    count = tokens.shape[1]
    if count <= at_most:
        return tokens, valid
    old, new = math.isqrt(count), math.isqrt(at_most)
    if old * old != count:
        raise ValueError(
            f"tokens: got {count} patches, expected a square grid or at most tokens.places_at_most={at_most} of them"
        )
    i, k = np.arange(new)[:, None], np.arange(old)[None]
    covers = (k >= i * old // new) & (k < -(-(i + 1) * old // new))
    members = jnp.asarray(np.kron(covers, covers), tokens.dtype)  # [q, p]
    number = valid @ members.T
    return jnp.einsum("qp,bpw->bqw", members, tokens * valid[..., None]) / jnp.maximum(number, 1)[..., None], (
        (number > 0).astype(tokens.dtype)
    )


def build(config, dim: int, initial_logit: float) -> TokensModel:
    return TokensModel(
        dim=config.tokens.dim,
        places=config.tokens.places,
        places_at_most=config.tokens.places_at_most,
        scale=config.tokens.scale,
        bias=config.tokens.bias,
        token_bias=config.tokens.token_bias,
        gate=config.tokens.gate,
    )


TOKENS = Method(
    "model: every token of the text finds its place in the image; the sigmoid loss",
    TokensModel,
    build,
    of_logits(contrastive.sigmoid),
)
