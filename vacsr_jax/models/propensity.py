"""Two questions about a pair, kept apart: is it a match, and would such a match have got the label?"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.ops.pairwise import PairTerms

START = 0.1  # the share of wrong labels
NOISE_SPEED = 10.0  # Adam moves a number by the learning rate a step; from 10 % to 50 % of noise is far in log odds


class PropensityModel(nn.Module):
    """A pair model `match` of "is it a match?", and the propensity with which a match of an item gets the label.

    a_ij = match(v_i, t_j)                               match logit; sigmoid(a_ij) is the probability of a match
    r_ij = log sigmoid(a_ij) + g(t_j) + f(v_i) + c       label logit
    A data set labels a caption with the one image it was written for, so a true match of a general caption is rarely
    labelled. Positive-unlabelled learning with a learned propensity (Elkan and Noto 2008; Bekker et al. 2019): the
    label's odds are the match probability times a propensity of the text and one of the image. g and f are one hidden
    layer each on the embedding as the tower gives it; they and c start at 0, and need no label of their own. The
    prepared embedding is that of `match` with g or f as its last number, [b, d + 1].

    Attributes:
      match: the pair model whose logit a is: `CosineModel`, `DeterministicAdapter` or `VariationalAdapter`.
      dim: d, of the embeddings.
      plateau: whether log sigmoid(a) stands in r; False: a itself (an ablation).
      text_propensity, image_propensity: whether there is g, f; without both the label's odds only saturate.
      noise_floor: whether the loss learns the share of wrong labels; see `losses.propensity`.
    """

    match: nn.Module
    dim: int
    plateau: bool
    text_propensity: bool
    image_propensity: bool
    noise_floor: bool

    @property
    def initial_logit(self) -> float | None:
        return self.match.initial_logit

    def setup(self):
        self.text_head = PropensityHead(self.dim) if self.text_propensity else None
        self.image_head = PropensityHead(self.dim) if self.image_propensity else None
        self.bias = self.param("bias", lambda key: jnp.float32(0))
        if self.noise_floor:
            self.param("noise_rate", lambda key: jnp.log(jnp.float32(START / (1 - START))) / NOISE_SPEED)

    def prepare_image(self, embedding: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """[match.prepare(v), f(v)]."""
        return self._with_propensity(embedding, self.image_head)

    def prepare_text(self, embedding: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """[match.prepare(t), g(t)]."""
        return self._with_propensity(embedding, self.text_head)

    def _with_propensity(self, embedding, head):
        propensity = jnp.zeros((len(embedding), 1)) if head is None else head(embedding)
        return jnp.concatenate([self.match.prepare(embedding), propensity], axis=-1)

    def __call__(
        self, images: Float[Array, "r e"], texts: Float[Array, "c e"], noise: Any = None
    ) -> Float[Array, "r c"] | PairTerms:
        """The label logit r of every pair of prepared embeddings; with a latent `PairTerms` of it, for one draw."""
        propensity = images[:, -1:] + texts[:, -1] + self.bias
        pairs = images[:, :-1], texts[:, :-1]
        if noise is None:
            return log_match(self.match(*pairs), self.plateau) + propensity
        terms = self.match(*pairs, noise)
        score, logit = (log_match(a, self.plateau) + propensity for a in (terms.score, terms.logit))
        return terms._replace(score=score, logit=logit)

    def fold(self) -> FoldedPropensity:
        return FoldedPropensity(self.match.fold(), self.bias, jnp.asarray(self.plateau))


def noise_logit(params: dict[str, Any]):
    """The log odds that a label is wrong, of a `PropensityModel`'s parameters."""
    return NOISE_SPEED * params["noise_rate"]


class PropensityHead(nn.Module):
    """One hidden layer as wide as its input, then one number, 0 at the start."""

    dim: int

    @nn.compact
    def __call__(self, embedding: Float[Array, "b d"]) -> Float[Array, "b 1"]:
        hidden = nn.gelu(nn.Dense(self.dim, name="hidden")(embedding))
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(hidden)


class FoldedPropensity(NamedTuple):
    """What scoring needs of a `PropensityModel`: its match model folded, c, and whether there is a plateau."""

    match: Any
    bias: Float[Array, ""]
    plateau: Array


def log_match(logit: Float[Array, "*b"], plateau: bool | Array) -> Float[Array, "*b"]:
    """log sigmoid(a), the log probability of a match; a itself without the plateau. Finite for every finite a."""
    return jnp.where(plateau, jax.nn.log_sigmoid(logit), logit)
