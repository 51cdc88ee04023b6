"""VACSR's variational adapter: from a pair's similarity vector to a distribution of its similarity."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from vacsr_jax.ops import gaussian_mixture as mixture
from vacsr_jax.ops.pairwise import PairTerms, similarity_vectors
from vacsr_jax.pair.adapter import (
    AdapterModel,
    AdapterScorer,
    bound,
    hidden_units,
    last_layer,
    residual_scale,
    trunk_parameters,
)
from vacsr_jax.pair.base import Leaf, Meaning
from vacsr_jax.pair.cosine import scaled


class Posterior(NamedTuple):
    """p(z | s) = sum_k softmax(mixture_logits)_k N(mean_k, diag exp(log_var_k)) of each pair."""

    mixture_logits: Float[Array, " k"]
    mean: Float[Array, "... k d"]
    log_var: Float[Array, "... k d"]


class PairNoise(NamedTuple):
    """The random numbers of one draw for each pair.

    Attributes:
      gumbel: [r, c, k] for the component weights.
      normal: [r, c] standard normal, for a linear decoder.
      seed: [r, c, 2] uint32, for a decoder with a hidden layer. Such a pair needs k d normals. They are drawn from the
        seed within a tile, so that they are never all in memory at once.
    """

    gumbel: Float[Leaf, "r c k"]
    normal: Float[Leaf, "r c"]  # None if there is a seed
    seed: UInt32[Leaf, "r c 2"]  # None if there is a normal


class VariationalAdapter(AdapterModel):
    """VACSR's adapter: s -> mixture of Gaussians over z in R^d -> decoder m(z); Wei et al. 2026, eq. 5.

    It has 5 (d^2 + d) + d + 1 + k parameters at width d, with two components and a linear decoder (5.25 M at d = 1024).

    z has the dimension of the embeddings, d.

    Attributes:
      dim, width, embeddings, initial_logit: see `AdapterModel`; the decoder's bias starts at `initial_logit`.
      components: k, the number of mixture components; alpha is the softmax of k learned numbers.
      decoder_width: 0 for a linear decoder, else the number of units in its one hidden layer.
      sigmoid: whether the variance loss uses u = sigmoid(log sigma^2), whose odds are sigma^2, or sigma^2 itself (the
        paper's ablation).
      bounded: whether sigma^2 is u = sigmoid(raw log-variance) everywhere, at most 1; if not, sigma^2 is u / (1 - u).
      temperature, hard: of the Gumbel-softmax.
      residual: logit = scale cos(v, t) + m(z), where the decoder's last kernel is 0 at the start: the cosine that the
        adapter starts from, and leaves where that helps.
    """

    has_latent = True

    components: int
    decoder_width: int
    sigmoid: bool
    temperature: float
    hard: bool
    residual: bool = False
    bounded: bool = False

    @property
    def residual_to_cosine(self) -> bool:
        return self.residual

    @property
    def meaning(self) -> Meaning:
        return Meaning(
            "decoded mean of the pair's posterior: log odds that the pair is labelled a match",
            "that the pair is labelled a match",
            "mean standard deviation of the pair's posterior",
        )

    def setup(self):
        d, h, k, e = self.dim, self.width, self.components, self.decoder_width
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        self.trunk_kernel, self.trunk_bias = trunk_parameters(self)
        self.mean_kernel = self.param("mean_kernel", init, (h, k * d))
        self.mean_bias = self.param("mean_bias", zeros, (k * d,))
        self.log_var_kernel = self.param("log_var_kernel", init, (h, k * d))
        self.log_var_bias = self.param("log_var_bias", zeros, (k * d,))
        self.mixture_logits = self.param("mixture_logits", zeros, (k,))
        self.scale = residual_scale(self)
        if e:
            self.decoder_in_kernel = self.param("decoder_in_kernel", init, (d, e))
            self.decoder_in_bias = self.param("decoder_in_bias", zeros, (e,))
        self.decoder_kernel = self.param("decoder_kernel", last_layer(self), (e or d, 1))
        self.decoder_bias = self.param("decoder_bias", nn.initializers.constant(self.initial_logit), (1,))

    def posterior(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> Posterior:
        """The posterior of every pair of prepared embeddings; mean and log_var are [r, c, k, d]."""
        hidden = hidden_units(similarity_vectors(images, texts), self.trunk_kernel, self.trunk_bias)
        mean = hidden @ self.mean_kernel + self.mean_bias
        log_var = bound(hidden @ self.log_var_kernel + self.log_var_bias, self.bounded)
        shape = (*mean.shape[:2], self.components, self.dim)
        return Posterior(self.mixture_logits, mean.reshape(shape), log_var.reshape(shape))

    def decode(self, z: Float[Array, "... d"]) -> Float[Array, "*b"]:
        """m(z): linear, or one hidden GELU layer."""
        if self.decoder_width:
            z = nn.gelu(z @ self.decoder_in_kernel + self.decoder_in_bias)
        return (z @ self.decoder_kernel + self.decoder_bias)[..., 0]

    def __call__(  # type: ignore[override]  # a model that draws has no default for its noise
        self,
        images: Float[Array, "r d"],
        texts: Float[Array, "c d"],
        noise: PairNoise,
    ) -> PairTerms:
        """The training terms of every pair, with one draw of its similarity.

        `noise` is the [r, c] part of the result of `draw_noise`.
        """
        post = self.posterior(images, texts)
        variance = jnp.exp(post.log_var)
        weights = mixture.component_weights(
            post.mixture_logits, noise.gumbel, temperature=self.temperature, hard=self.hard
        )
        cosine = self.cosine(images, texts)
        logit = cosine + self.draw_logit(post.mean, variance, weights, noise)
        alpha = jnp.broadcast_to(jax.nn.softmax(post.mixture_logits), weights.shape)
        score = cosine + self.decode(mixture.mix(alpha, post.mean))
        kl = mixture.kl_upper_bound(*post)
        return PairTerms(score, logit, kl, self.variance_loss(logit, mixture.mix(weights, variance)))

    def cosine(self, images: Float[Array, "r d"], texts: Float[Array, "c d"]) -> Float[Array, "r c"] | float:
        """What a residual adapter adds to m(z): scale cos of every pair; else 0."""
        return 0.0 if self.scale is None else self.scale / self.dim * (images @ texts.T)

    @nn.nowrap
    def with_scale(self, params, log_scale, bias=None):
        return scaled(params, log_scale, bias, "decoder_bias") if self.residual else params

    @nn.nowrap
    def draw_noise(self, key: jax.Array, n: int, m: int) -> PairNoise:
        """The noise of one draw for n x m pairs. It covers the whole grid, so no draw depends on tiles or devices."""
        gumbel_key, key = jax.random.split(key)
        gumbel = jax.random.gumbel(gumbel_key, (n, m, self.components))
        if self.decoder_width:
            return PairNoise(gumbel, None, jax.random.bits(key, (n, m, 2)))
        return PairNoise(gumbel, jax.random.normal(key, (n, m)), None)

    def draw_logit(
        self,
        mean: Float[Array, "r c k d"],
        variance: Float[Array, "r c k d"],
        weights: Float[Array, "r c k"],
        noise: PairNoise,
    ) -> Float[Array, "r c"]:
        """One draw of m(z) for each pair, z = sum_k weights_k (mean_k + sigma_k eps_k).

        With a linear decoder w . z + b, m(z) given the component weights is itself Gaussian, with mean
        sum_k weights_k w . mean_k + b and variance sum_k weights_k^2 sum_d w_d^2 sigma_kd^2. This is the local
        reparameterization of Kingma et al. 2015: one normal per pair gives the distribution of a decoded draw of z. If
        the decoder has a hidden layer, z itself is drawn.
        """
        if self.decoder_width:
            normal = _normals(noise.seed, mean.shape[2:])
            return self.decode(mixture.mix(weights, mean + jnp.sqrt(variance) * normal))
        kernel = self.decoder_kernel[:, 0]
        centre = jnp.sum(weights * (mean @ kernel), axis=-1) + self.decoder_bias
        # The 1e-12 keeps the gradient of the square root finite if every variance underflows.
        return centre + jnp.sqrt(jnp.sum(weights**2 * (variance @ kernel**2), axis=-1) + 1e-12) * noise.normal

    def sample(
        self, key: jax.Array, images: Float[Array, "r d"], texts: Float[Array, "c d"], n: int
    ) -> Float[Array, "n r c"]:
        """n draws of m(z), z ~ p(z | s), for every pair. Each draws one component exactly, then the similarity."""
        post = self.posterior(images, texts)
        variance, cosine = jnp.exp(post.log_var), self.cosine(images, texts)

        def draw(key):
            noise = self.draw_noise(key, len(images), len(texts))
            one_hot = mixture.component_weights(post.mixture_logits, noise.gumbel, temperature=1.0, hard=True)
            return cosine + self.draw_logit(post.mean, variance, one_hot, noise)

        return jax.lax.map(draw, jax.random.split(key, n))

    def variance_loss(self, logit: Float[Array, "*b"], variance: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        """mean_d (1/2 error / u_d + 1/2 log u_d), error = (1 - sigmoid(logit))^2 held constant.

        Wei et al. 2026, eq. 10 to 12. The minimum is at u = error. u = sigmoid(log sigma^2) = sigma^2 / (1 + sigma^2),
        or sigma^2 in the ablation without sigmoid and in a bounded adapter.
        """
        error = jax.lax.stop_gradient(jax.nn.sigmoid(-logit)) ** 2
        # If training fits a pair perfectly, its log sigma^2 falls without end. Below 1e-18 the gradient,
        # -error / sigma^4, would overflow.
        inverse = 1 / jnp.maximum(variance, 1e-18) + (1 if self.sigmoid and not self.bounded else 0)
        return 0.5 * (error * jnp.mean(inverse, axis=-1) - jnp.mean(jnp.log(inverse), axis=-1))

    def scorer(self) -> AdapterScorer:
        """The parameters as inference needs them: sum_k alpha_k mean_k merged with the decoder's first layer."""
        alpha = jax.nn.softmax(self.mixture_logits)
        mean_kernel = jnp.einsum("hkd,k->hd", self.mean_kernel.reshape(self.width, self.components, self.dim), alpha)
        mean_bias = alpha @ self.mean_bias.reshape(self.components, self.dim)
        if self.decoder_width:
            first, first_bias = self.decoder_in_kernel, self.decoder_in_bias
            decoder, decoder_bias = self.decoder_kernel[:, 0], self.decoder_bias[0]
        else:
            first, first_bias, decoder, decoder_bias = self.decoder_kernel, self.decoder_bias, None, None
        return AdapterScorer(
            self.trunk_kernel,
            self.trunk_bias,
            mean_kernel @ first,
            mean_bias @ first + first_bias,
            decoder,
            decoder_bias,
            self.log_var_kernel,
            self.log_var_bias,
            alpha,
            self.scale,
            self.bounded,
        )


def _normals(seed: UInt32[Array, "r c 2"], shape: tuple[int, ...]) -> Float[Array, "r c k d"]:
    keys = jax.random.wrap_key_data(seed, impl="threefry2x32")
    return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, shape)))(keys)
