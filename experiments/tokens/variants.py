"""Variants of token matching that no user should choose: what the table `parts` compares the conjunction with.

A config names one by its path, such as `propensity.match=experiments.tokens.variants:MEAN`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vacsr_jax.losses import contrastive
from vacsr_jax.ops.pairwise import PairTerms
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.adapter import hidden_units
from vacsr_jax.pair.base import Leaf, Meaning, Method, PairScores, of_logits
from vacsr_jax.pair.conjunction import logit_of_all
from vacsr_jax.pair.tokens import Claims, Places, TokensModel, TokensScorer, build, in_full, log
from vacsr_jax.pair.vacsr import PairNoise, Posterior, VariationalAdapter
from vacsr_jax.pair.vacsr_objective import VACSR
from vacsr_jax.towers.base import Encoded, field_types

MOST_CLAIMS = 20  # the context length of the tiny towers
REGIONS_COUNT = 12  # as many as there are ordered pairs of four cells
HEADS, HIDDEN = 4, 64  # of the cross-attention layer


class SumScorer(TokensScorer):
    """sum_l w_l z_l: no claim has a plateau, and one that fails can be made up for."""

    def score_tile(self, images: Places, texts: Claims) -> PairScores:
        return PairScores(jnp.einsum("rlc,cl->rc", self.claim_logits(images, texts), texts.weights), None)


class SumModel(TokensModel):
    """The sum of the claims' logits in place of their conjunction."""

    def scorer(self) -> TokensScorer:
        return SumScorer(jnp.exp(self.log_scale), self.calibration)


class MeanScorer(TokensScorer):
    """sum_l w_l z_l / sum_l w_l: the length of a text does not count."""

    def score_tile(self, images: Places, texts: Claims) -> PairScores:
        total = SumScorer.score_tile(self, images, texts).logit
        return PairScores(total / texts.weights.sum(axis=1), None)


class MeanModel(TokensModel):
    """The mean of the claims' logits in place of their conjunction."""

    def scorer(self) -> TokensScorer:
        return MeanScorer(jnp.exp(self.log_scale), self.calibration)


class NearestModel(MeanModel):
    """Late interaction, the text's side of FILIP (Yao et al. 2022): a mean that ranks and is no probability.

    FILIP takes the maximum over places, of which log sum exp at a learned scale is the smooth form.
    """

    @property
    def meaning(self) -> Meaning:
        return Meaning("mean over tokens of how well each finds its place", None, None)


class RankingModel(TokensModel):
    """The conjunction under a loss that does not fix the level of its logits."""

    @property
    def meaning(self) -> Meaning:
        return Meaning("log odds of all claims: it ranks, and its level means nothing", None, None)


class RegionsModel(TokensModel):
    """Pooled regions in place of ordered pairs: each is the mean of the cells under its own learned attention."""

    def setup(self):
        super().setup()
        self.look = nn.Dense(REGIONS_COUNT)
        self.region = nn.Dense(self.dim)

    def prepare_image(self, encoded: Encoded) -> Places:
        places = super().prepare_image(encoded)
        cells, valid = (x[:, encoded.class_tokens :] for x in in_full(encoded))
        share = nn.softmax(self.look(cells) + log(valid)[..., None], axis=1)
        regions = unit(self.region(jnp.einsum("bpr,bpw->brw", share, cells)))
        weights = jnp.ones(regions.shape[:2], places.weights.dtype)
        return Places(
            jnp.concatenate([places.vectors, regions], axis=1), jnp.concatenate([places.weights, weights], axis=1)
        )


class CrossScorer(TokensScorer):
    """z_l plus what a cross-attention layer from the token to the places adds: readout . gelu(own + attended)."""

    query: Leaf = None  # [heads, d, d]
    value: Leaf = None  # [heads, d, hidden]
    own: Leaf = None  # [d, hidden]
    readout: Leaf = None  # [hidden]

    def claim_logits(self, images: Places, texts: Claims) -> Float[Array, "r l c"]:
        queries = jnp.einsum("cld,hde->clhe", texts.vectors, self.query)
        fits = jnp.einsum("rpd,clhd->rlchp", images.vectors, queries) + log(images.weights)[:, None, None, None]
        values = jnp.einsum("rpd,hde->rhpe", images.vectors, self.value)
        attended = jnp.einsum("rlchp,rhpe->rlce", nn.softmax(fits), values)
        own = jnp.einsum("cld,de->lce", texts.vectors, self.own)
        return super().claim_logits(images, texts) + nn.gelu(own + attended) @ self.readout


class CrossModel(TokensModel):
    """A cross-attention layer in place of ordered pairs; it adds nothing at the start."""

    def setup(self):
        super().setup()
        start, heads = nn.initializers.lecun_normal(), (HEADS, self.dim)
        self.query = self.param("query", nn.initializers.normal(1.0), (*heads, self.dim))
        self.value = self.param("value", start, (*heads, HIDDEN))
        self.own = self.param("own", start, (self.dim, HIDDEN))
        self.readout = self.param("readout", nn.initializers.zeros, (HIDDEN,))

    def scorer(self) -> TokensScorer:
        layer = (self.query, self.value, self.own, self.readout)
        return CrossScorer(jnp.exp(self.log_scale), self.calibration, None, *layer)


class ClaimAdapter(VariationalAdapter):
    """VACSR's adapter on n pairs of vectors as they are given, [n 1], in place of all images with all texts."""

    def posterior(self, images: Float[Array, "n d"], texts: Float[Array, "n d"]) -> Posterior:
        hidden = hidden_units(images * texts, self.trunk_kernel, self.trunk_bias)
        shape = (len(hidden), 1, self.components, self.dim)
        mean = hidden @ self.mean_kernel + self.mean_bias
        log_var = hidden @ self.log_var_kernel + self.log_var_bias
        return Posterior(self.mixture_logits, mean.reshape(shape), log_var.reshape(shape))


class LatentScorer(TokensScorer):
    """z_l plus the decoded mean of the claim's latent."""

    adapter: Leaf = None  # an `AdapterScorer`

    def claim_logits(self, images: Places, texts: Claims) -> Float[Array, "r l c"]:
        similarity = attended(self, images, texts) * claims_first(texts)
        latent = self.adapter.score_vectors(similarity.reshape(-1, *similarity.shape[2:])).logit
        return super().claim_logits(images, texts) + latent.reshape(similarity.shape[:-1])


class LatentModel(TokensModel):
    """VACSR's latent on top of each claim: its adapter sees the token times the mean of the places that it found."""

    adapter: VariationalAdapter
    has_latent = True

    def scorer(self) -> TokensScorer:
        return LatentScorer(jnp.exp(self.log_scale), self.calibration, None, self.adapter.scorer().for_ranking())

    def __call__(self, images: Places, texts: Claims, noise: PairNoise) -> PairTerms:  # type: ignore[override]
        scorer, weights = TokensScorer(jnp.exp(self.log_scale), self.calibration), texts.weights.T
        certain, found = scorer.claim_logits(images, texts), attended(scorer, images, texts)
        own = jax.tree.map(lambda x: jnp.moveaxis(x[:, :, : len(weights)], 1, 2), noise)
        own = jax.tree.map(lambda x: x.reshape(certain.size, 1, *x.shape[3:]), own)
        claims = jnp.broadcast_to(claims_first(texts), found.shape)
        terms = self.adapter(found.reshape(certain.size, -1), claims.reshape(certain.size, -1), own)
        terms = jax.tree.map(lambda x: x.reshape(certain.shape), terms)
        score, logit = (logit_of_all(certain + x, log(weights), axis=1) for x in (terms.score, terms.logit))
        kl, variance_loss = ((weights * x).sum(axis=1) for x in (terms.kl, terms.variance_loss))
        return PairTerms(score, logit, kl, variance_loss / weights.sum(axis=0))

    @nn.nowrap
    def draw_noise(self, key: jax.Array, n: int, m: int) -> PairNoise:
        """One draw for each claim of each pair: [n, m, claims ...]."""
        found = self.adapter.draw_noise(key, n, m * MOST_CLAIMS)
        return jax.tree.map(lambda x: x.reshape(n, m, MOST_CLAIMS, *x.shape[2:]), found)


def claims_first(texts: Claims) -> Float[Array, "l c d"]:
    return jnp.swapaxes(texts.vectors, 0, 1)


def attended(scorer: TokensScorer, images: Places, texts: Claims) -> Float[Array, "r l c d"]:
    """The mean of an image's places under the shares that `TokensScorer.explain` gives."""
    fits = jnp.einsum("rpd,lcd->rlcp", images.vectors, scorer.scale * claims_first(texts))
    share = nn.softmax(fits + log(images.weights)[:, None, None])
    return jnp.einsum("rlcp,rpd->rlcd", share, images.vectors)


def variant(model: type[TokensModel], config, **others) -> TokensModel:
    """The library's model of a config, as another class."""
    known = build(config, 0, 0.0)
    return model(**{name: getattr(known, name) for name in field_types(TokensModel)}, **others)


def latent(config, dim: int, initial_logit: float) -> LatentModel:
    adapter = VACSR.build(config, config.tokens.dim, 0.0)
    fields = {name: getattr(adapter, name) for name in field_types(VariationalAdapter)}
    return variant(LatentModel, config, adapter=ClaimAdapter(**fields))


def method(about: str, model: type[TokensModel], loss=contrastive.sigmoid) -> Method:
    return Method(about, model, lambda config, dim, initial_logit: variant(model, config), of_logits(loss))


SUM = method("model: the sum of the claims' logits", SumModel)
MEAN = method("model: the mean of the claims' logits", MeanModel)
FILIP = method("model: late interaction, softmax over the batch", NearestModel, contrastive.infonce)
INFONCE = method("model: the conjunction, softmax over the batch", RankingModel, contrastive.infonce)
REGIONS = method("model: pooled regions in place of ordered pairs", RegionsModel)
CROSS = method("model: a cross-attention layer in place of ordered pairs", CrossModel)
LATENT = Method("model: a latent on top of each claim; VACSR's loss", LatentModel, latent, VACSR.loss, VACSR.label_loss)
