"""Separates two questions about a pair: is it a match, and would such a match have been labelled?"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vacsr_jax.losses.propensity import add_noise_floor
from vacsr_jax.ops.pairwise import PairTerms
from vacsr_jax.pair.adapter import DETERMINISTIC, scale_embedding
from vacsr_jax.pair.base import (
    Batch,
    Explained,
    Item,
    Items,
    Leaf,
    Meaning,
    Method,
    PairModel,
    PairScores,
    Params,
    Scorer,
    all_pairs,
    import_named,
)
from vacsr_jax.pair.conjunction import CONJUNCTION
from vacsr_jax.pair.cosine import SIGMOID
from vacsr_jax.pair.tokens import TOKENS
from vacsr_jax.pair.vacsr_objective import VACSR
from vacsr_jax.towers.base import Encoded

START = 0.1  # the share of wrong labels at the start
NOISE_SPEED = 10.0  # Adam moves a number by the learning rate a step, and 10 % to 50 % of noise is far in log odds
MATCHES = {
    "cosine": SIGMOID,
    "conjunction": CONJUNCTION,
    "tokens": TOKENS,
    "deterministic": DETERMINISTIC,
    "vacsr": VACSR,
}


class WithPropensity(Items):
    """The match model's items with their propensities [b, 1], for items that are not one vector each."""

    match: Item
    propensity: Leaf


def append_propensity(match: Item, propensity: Float[Array, "b 1"]) -> Item:
    """Adds propensities to items: one vector grows by one number, [b, d + 1]; other items become `WithPropensity`."""
    if isinstance(match, jax.Array) and match.ndim == 2:
        return jnp.concatenate([match, propensity], axis=-1)
    return WithPropensity(match, propensity)


def match_part(items: Item) -> Item:
    """The items without their propensities."""
    return items.match if isinstance(items, WithPropensity) else items[..., :-1]


def propensity_rows(images: Item) -> Float[Array, "r 1"]:
    """The propensities f of images, one per row."""
    return images.propensity if isinstance(images, WithPropensity) else images[:, -1:]


def propensity_columns(texts: Item) -> Float[Array, "*r c"]:
    """The propensities g of texts, one per column."""
    return texts.propensity[..., 0] if isinstance(texts, WithPropensity) else texts[..., -1]


class PropensityScorer(Scorer):
    """What scoring needs of a `PropensityModel`: its match model's scorer, c, and whether there is a plateau."""

    match: Scorer
    bias: Leaf  # []
    plateau: Leaf  # bool []

    @property
    def gives_uncertainty(self) -> bool:
        return self.match.gives_uncertainty

    def score_tile(self, images: Item, texts: Item) -> PairScores:
        return self.with_propensity(self.match.score_tile(match_part(images), match_part(texts)), images, texts)

    def score_listed(self, images: Item, texts: Item) -> PairScores:
        return self.with_propensity(self.match.score_listed(match_part(images), match_part(texts)), images, texts)

    def with_propensity(self, scores: PairScores, images: Item, texts: Item) -> PairScores:
        """Adds both scores to the pairs, from the match model's logits a and the propensities f and g.

        label_score = log sigmoid(a) + g + f + c ranks pairs as the label's odds do. The floor of wrong labels does not
        change the ranking, since it is the same for every pair. match_score = log sigmoid(a) + f leaves out the text's
        propensity.
        """
        match = log_match(scores.logit, self.plateau) + propensity_rows(images)
        label = match + propensity_columns(texts) + self.bias
        return scores._replace(logit=self.match.calibrated(scores.logit), label_score=label, match_score=match)

    def label_parts(self, images: Item, texts: Item) -> tuple[Float[Leaf, "r c"], Float[Leaf, "r c"]]:
        """The label logit of a pair is log sigmoid(a) + h, h = g + f + c."""
        match = self.match.tile_function()(self.match, match_part(images), match_part(texts))
        return match.logit, propensity_rows(images) + propensity_columns(texts) + self.bias

    def tile_function(self):
        return _tile_by(self.match.tile_function())

    def for_ranking(self) -> PropensityScorer:
        return self.replace(match=self.match.for_ranking())

    def in_precision(self, dtype: Any) -> PropensityScorer:
        return self.replace(match=self.match.in_precision(dtype))

    def pairs_per_tile(self, tile_bytes: int, images: Item, texts: Item) -> int:
        return self.match.pairs_per_tile(tile_bytes, match_part(images), match_part(texts))


@functools.cache
def _tile_by(match_tile):
    def score_tile(scorer: PropensityScorer, images: Item, texts: Item) -> PairScores:
        return scorer.with_propensity(match_tile(scorer.match, match_part(images), match_part(texts)), images, texts)

    return score_tile


class PropensityModel(PairModel):
    """A pair model `match` that answers "is it a match?", and the propensity of a match to be labelled.

    a_ij = match(v_i, t_j)                               match logit; sigmoid(a_ij) is the probability of a match
    r_ij = log sigmoid(a_ij) + g(t_j) + f(v_i) + c       label logit
    A data set labels a caption with the one image it was written for, so a true match of a general caption is rarely
    labelled. This is positive-unlabelled learning with a learned propensity (Elkan and Noto 2008; Bekker et al. 2019):
    the label's odds are the match probability times a propensity of the text and one of the image. g and f each have
    one hidden layer on the towers' embedding. They and c start at 0, and need no labels of their own. An item is the
    item of `match` with its propensity (`append_propensity`).

    Attributes:
      match: the pair model with logit a.
      dim: d, the dimension of the embeddings.
      plateau: whether r contains log sigmoid(a); False: a itself (an ablation).
      text_propensity, image_propensity: whether there is a g and an f. Without both, the label's odds only saturate.
      noise_floor: whether the loss learns the share of wrong labels; see `losses.propensity`.
      unit: whether g and f see sqrt(d) x / |x| in place of an embedding x.
      head_width: units of the hidden layer of g and f; 0: d.
    """

    match: PairModel
    dim: int
    plateau: bool
    text_propensity: bool
    image_propensity: bool
    noise_floor: bool
    unit: bool = False
    head_width: int = 0

    @property
    def wants_log_var(self) -> bool:
        return self.match.wants_log_var

    @property
    def has_latent(self) -> bool:
        return self.match.has_latent

    @property
    def explains(self) -> bool:
        return self.match.explains

    @property
    def meaning(self) -> Meaning:
        return Meaning(
            "log odds that the text is true of the image, whether or not it got the label",
            "that the text is true of the image, whether or not it got the label",
            self.match.meaning.uncertainty,
        )

    def setup(self):
        width = self.head_width or self.dim
        self.text_head = PropensityHead(width) if self.text_propensity else None
        self.image_head = PropensityHead(width) if self.image_propensity else None
        self.bias = self.param("bias", lambda key: jnp.float32(0))
        if self.noise_floor:
            self.param("noise_rate", lambda key: jnp.log(jnp.float32(START / (1 - START))) / NOISE_SPEED)

    def prepare_image(self, encoded: Encoded) -> Item:
        """[match.prepare_image(v), f(v)]."""
        propensity = propensity_by(self.image_head, self.seen(encoded.embedding))
        return append_propensity(self.match.prepare_image(encoded), propensity)

    def prepare_text(self, encoded: Encoded) -> Item:
        """[match.prepare_text(t), g(t)]."""
        propensity = propensity_by(self.text_head, self.seen(encoded.embedding))
        return append_propensity(self.match.prepare_text(encoded), propensity)

    @nn.nowrap
    def seen(self, embedding: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """What the propensities see of embeddings."""
        return scale_embedding(embedding, "unit" if self.unit else "raw")

    def __call__(self, images: Item, texts: Item, noise: Any = ()) -> Float[Array, "r c"] | PairTerms:
        """What `match` returns for every pair, with the label logit r in place of the match logit."""
        propensity = propensity_rows(images) + propensity_columns(texts) + self.bias
        found = self.match(match_part(images), match_part(texts), noise)
        return map_logits(lambda a: log_match(a, self.plateau) + propensity, found)

    @nn.nowrap
    def draw_noise(self, key, n: int, m: int):
        return self.match.draw_noise(key, n, m)

    @nn.nowrap
    def direction(self, items: Item):
        return self.match.direction(match_part(items))

    @nn.nowrap
    def from_unit(self, vectors: Float[Array, "b d"]) -> Item:
        """The items of `match` with propensities of 0: the vectors lack the length that propensities depend on."""
        return append_propensity(self.match.from_unit(vectors), jnp.zeros((len(vectors), 1), jnp.float32))

    def sample(self, key: jax.Array, images: Item, texts: Item, n: int):
        return self.match.sample(key, match_part(images), match_part(texts), n)

    def explain(self, images: Item, texts: Item) -> Explained:
        return self.match.explain(match_part(images), match_part(texts))

    @nn.nowrap
    def calibrate(self, params: Params, scores: PairScores, labels: np.ndarray) -> Params:
        match = params.get("match", {})
        if not self.plateau or "calibration" not in match:
            return params
        from vacsr_jax.pair.calibration import fit_calibration  # late: scipy, which only training needs

        slope, shift = np.asarray(match["calibration"], np.float64)
        logit = (np.asarray(scores.logit, np.float64) - shift) / slope
        propensity = np.asarray(scores.label_score) + np.logaddexp(0, -logit)
        calibration = np.asarray(fit_calibration(logit, propensity, labels), np.float32)
        return {**params, "match": {**match, "calibration": calibration}}

    @nn.nowrap
    def noise_rate(self, params: Params) -> Float[Array, ""] | None:
        return jax.nn.sigmoid(noise_logit(params)) if self.noise_floor else None

    @nn.nowrap
    def with_scale(self, params: Params, log_scale: Leaf, bias: Leaf | None = None) -> Params:
        if "match" not in params:
            return params
        of_match = (log_scale,) if bias is None else (log_scale, bias)  # a method of another package may know only one
        return {**params, "match": self.match.with_scale(params["match"], *of_match)}

    def scorer(self) -> PropensityScorer:
        return PropensityScorer(self.match.scorer(), self.bias, jnp.asarray(self.plateau))


def noise_logit(params: Params) -> Float[Array, ""]:
    """The log odds that a label is wrong, from the parameters of a `PropensityModel`."""
    return NOISE_SPEED * jnp.asarray(params["noise_rate"])


class PropensityHead(nn.Module):
    """One hidden layer, then one number, which starts at 0."""

    width: int

    @nn.compact
    def __call__(self, embedding: Float[Array, "b d"]) -> Float[Array, "b 1"]:
        hidden = nn.gelu(nn.Dense(self.width, name="hidden")(embedding))
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(hidden)


def propensity_by(head: PropensityHead | None, embedding: Float[Array, "b d"]) -> Float[Array, "b 1"]:
    """The propensity of each item; 0 without a head."""
    return jnp.zeros((len(embedding), 1)) if head is None else head(embedding)


def log_match(logit: Float[Array, "*b"], plateau: bool | Array) -> Float[Array, "*b"]:
    """log sigmoid(a), the log probability of a match; a itself without the plateau. Finite for every finite a."""
    return jnp.where(plateau, jax.nn.log_sigmoid(logit), logit)


def map_logits(function, found: Array | PairTerms) -> Array | PairTerms:
    """Applies `function` to the logits that a pair model returns: the array itself, or those in `PairTerms`."""
    if isinstance(found, PairTerms):
        return found._replace(score=function(found.score), logit=function(found.logit))
    return function(found)


def match_method(config) -> Method:
    """Returns the method that `propensity.match` names: one of `MATCHES`, or one of another package.

    Raises:
      ValueError: if there is no such method, or it is a propensity method itself.
    """
    name = config.propensity.match
    if ":" in name:
        found = import_named(name, Method)
        if found.model is PropensityModel:
            raise ValueError(f"propensity.match: {name} is a propensity method, which cannot wrap another one")
        return found
    if name not in MATCHES:
        raise ValueError(
            f"propensity.match: got {name!r}, expected one of {', '.join(MATCHES)}, or my_package.my_module:MyMethod"
        )
    return MATCHES[name]


def build(config, dim: int, initial_logit: float) -> PropensityModel:
    match = match_method(config).build(config, dim, initial_logit)
    if match.meaning.probability is None:
        name = config.propensity.match
        raise ValueError(f"propensity.match: the logit of {name} is not a probability, so it cannot be a match logit")
    return PropensityModel(
        match,
        dim,
        plateau=config.propensity.plateau,
        text_propensity=config.propensity.text,
        image_propensity=config.propensity.image,
        noise_floor=config.propensity.noise_floor,
        unit=config.propensity.unit,
        head_width=config.propensity.head_width,
    )


def objective(pair: PropensityModel, params: Params, batch: Batch, config):
    """The match method's loss of the label logits, raised to the floor of wrong labels."""
    found, extra, floor = all_pairs(pair, params, batch), {}, lambda logits: logits
    if pair.noise_floor:
        noise = noise_logit(params)
        extra = {"noise": jax.nn.sigmoid(noise)}

        def floor(logits):
            return add_noise_floor(logits, noise, batch.labels, batch.valid)

    loss, terms = match_method(config).loss_above(floor, found, batch, config)
    return loss, terms | extra


PROPENSITY = Method(
    "wrapper: whether a pair matches, apart from whether such a match got the label",
    PropensityModel,
    build,
    objective=objective,
    options=lambda config, dim: match_method(config).options(config, dim),
)
