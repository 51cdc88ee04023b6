"""What else puts texts and images in one ranking: the rivals of standardization, each scores in, scores out.

Larger is better; -inf is no candidate. Every function keeps the shape [q, n] of its scores, so all are judged alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from vacsr_jax.search.pseudo_positives import Array, unit
from vacsr_jax.search.standardization import ModalityStats, scale

RRF_CONSTANT = 60  # Cormack et al. 2009; with one modality per document it changes no ranking
DBSF_DEPTH = 100  # candidates retrieved from each modality
TEMPERATURE = 2.0  # standard deviations; chosen on validation queries, see experiments/mixed_search


@jax.jit
def ranks(scores: Float[Array, "q n"], modality: Int[Array, " n"]) -> Int[jax.Array, "q n"]:
    """The place of each candidate among those of its modality, from 1, best first; equal scores in the bank's order."""
    kinds = jnp.broadcast_to(jnp.asarray(modality), scores.shape)
    order = jnp.lexsort((-jnp.asarray(scores), kinds), axis=1)
    place = jnp.argsort(order, axis=1)
    before = jnp.searchsorted(
        jnp.sort(jnp.asarray(modality)), jnp.asarray(modality)
    )  # candidates of smaller modalities
    return place - before + 1


@jax.jit
def interleave(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], z: Float[Array, "q n"]
) -> Float[jax.Array, "q n"]:
    """Every modality's best, then every modality's second: k / 2 of each among the first k of two.

    `z`, any scores on one scale, orders the candidates of equal rank. Returns minus the place in the merged list.
    """
    order = jnp.lexsort((-jnp.asarray(z), ranks(scores, modality)), axis=1)
    place = jnp.argsort(order, axis=1)
    return jnp.where(jnp.isneginf(scores), -jnp.inf, -place.astype(jnp.float32))


@jax.jit
def rrf(scores: Float[Array, "q n"], modality: Int[Array, " n"]) -> Float[jax.Array, "q n"]:
    """Reciprocal rank fusion, 1 / (60 + rank) (Cormack et al. 2009).

    A document is in one modality's list only, so this is interleaving whose candidates of equal rank stay tied.
    """
    fused = 1 / (RRF_CONSTANT + ranks(scores, modality).astype(jnp.float32))
    return jnp.where(jnp.isneginf(scores), -jnp.inf, fused)


@functools.partial(jax.jit, static_argnames=("num_modalities", "depth"))
def dbsf(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], num_modalities: int, depth: int | None = DBSF_DEPTH
) -> Float[jax.Array, "q n"]:
    """Distribution-based score fusion: (s - (mean - 3 std)) / (6 std) of each query's `depth` best of a modality.

    Mazzeschi 2023, as Qdrant has it; population std. `depth=None` is the z-score over all candidates of the modality
    ("per-query z"). Candidates beyond the depth get the same affine map. Equal scores give 0.5.
    """

    def spread(kind):
        mine = jnp.where((modality == kind) & ~jnp.isneginf(scores), scores, -jnp.inf)
        best = mine if depth is None else jax.lax.top_k(mine, min(depth, scores.shape[1]))[0]
        real = ~jnp.isneginf(best)
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        mean = jnp.sum(jnp.where(real, best, 0), axis=1, keepdims=True) / count
        return mean, jnp.sqrt(jnp.sum(jnp.where(real, best - mean, 0) ** 2, axis=1, keepdims=True) / count)

    mean, std = (x[:, :, 0].T[:, modality] for x in jax.vmap(spread)(jnp.arange(num_modalities)))
    return jnp.where(std > 0, (scores - mean) / jnp.where(std > 0, 6 * std, 1), 0) + jnp.where(
        jnp.isneginf(scores), -jnp.inf, 0.5
    )


@jax.jit
def oracle(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], wanted: Bool[Array, "q m"]
) -> Float[jax.Array, "q n"]:
    """Search in the modality of the answer alone, which nobody knows: the bound of what keeps the order in one."""
    return jnp.where(jnp.asarray(wanted)[:, modality], scores, -jnp.inf)


# On embeddings.


@functools.partial(jax.jit, static_argnames="num_modalities")
def means(x: Float[Array, "n d"], modality: Int[Array, " n"], num_modalities: int) -> Float[jax.Array, "m d"]:
    """Mean unit vector of each modality; 0 for one without any."""
    one_hot = jnp.asarray(modality)[:, None] == jnp.arange(num_modalities)
    total = jnp.einsum("nm,nd->md", one_hot.astype(jnp.float32), x, precision="highest")
    return total / jnp.maximum(one_hot.sum(axis=0), 1)[:, None]


@jax.jit
def center(x: Float[Array, "n d"], modality: Int[Array, " n"], mean: Float[Array, "m d"]) -> Float[jax.Array, "n d"]:
    """normalize(x - mean of its role), for unit x.

    GR-CLIP (2507.19054): roles are query, text document, image document. I0T-post (2412.14384): roles are text and
    image, so a text query is centred as the text documents are.
    """
    return unit(jnp.asarray(x) - jnp.asarray(mean)[modality])


# Of the candidates, over many queries.


def query_bias(blocks: Iterable[Float[Array, "_ n"]], temperature: float = TEMPERATURE) -> Float[jax.Array, " n"]:
    """How well each candidate fits queries in general: temperature x log mean_r exp(z(r, c) / temperature).

    Subtracted from z(q, c) it gives temperature x log P(q | c), up to a constant, over the queries r: the inverted
    softmax of QB-Norm (Bogolin et al. 2022), whose one temperature means the same in every modality because z is
    standardized. A candidate that is near every query loses its lead, and so does a modality.

    Args:
      blocks: z-scores of fit queries, unlabelled, some rows at a time; -inf where the two are not to be compared.
      temperature: in standard deviations of the best scores. Towards 0 only the nearest query counts, for large ones
        their mean does.

    Returns:
      float32; +inf, so never found, for a candidate that no query may be compared with.

    Raises:
      ValueError: if there is no block.
    """
    log_sum, count = None, 0
    for z in blocks:
        here = jax.nn.logsumexp(jnp.asarray(z) / temperature, axis=0)
        log_sum = here if log_sum is None else jnp.logaddexp(log_sum, here)
        count += jnp.sum(~jnp.isneginf(z), axis=0)
    if log_sum is None:
        raise ValueError("query_bias: got no queries, expected at least one")
    return jnp.where(count > 0, temperature * (log_sum - jnp.log(jnp.maximum(count, 1))), jnp.inf)


def fold(
    bank: Float[Array, "n d"],
    modality: Int[Array, " n"],
    stats: ModalityStats,
    bias: Float[Array, " n"] | None = None,
    query_modality: int = 0,
) -> Float[jax.Array, "n d+1"]:
    """Vectors whose inner product with [q ; 1] is z(q, c) - bias(c): [c / std ; -mean / std - bias].

    For one index of any engine that ranks by inner products; not by cosine, which would normalise them. They must be
    made again when the statistics are fitted again. Unit bank and queries.
    """
    mean, std = (x[query_modality][modality] for x in scale(stats))
    last = -mean / std - (0 if bias is None else jnp.asarray(bias))
    return jnp.concatenate([jnp.asarray(bank).astype(jnp.float32) / std[:, None], last[:, None]], axis=1)
