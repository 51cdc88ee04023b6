"""The rivals of standardization: other ways to rank texts and images together.

Most take scores and return scores. Larger is better, and -inf marks a document that a query must not find. Scores keep
their shape [q, n], so one measure evaluates all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from vacsr_jax.ops.vectors import unit
from vacsr_jax.search.standardize.pseudo_positives import Array

RRF_CONSTANT = 60  # Cormack et al. 2009; its value changes no ranking, since each document is in only one list
DBSF_DEPTH = 100  # candidates retrieved from each modality
TEMPERATURE = 2.0  # standard deviations; chosen on validation queries, see experiments/mixed_search


@jax.jit
def ranks(scores: Float[Array, "q n"], modality: Int[Array, " n"]) -> Int[jax.Array, "q n"]:
    """The rank of each document among those of its modality, from 1, best first; equal scores keep their order."""
    kinds = jnp.broadcast_to(jnp.asarray(modality), scores.shape)
    order = jnp.lexsort((-jnp.asarray(scores), kinds), axis=1)
    place = jnp.argsort(order, axis=1)
    before = jnp.searchsorted(jnp.sort(jnp.asarray(modality)), jnp.asarray(modality))  # documents of lower modalities
    return place - before + 1


@jax.jit
def interleave(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], z: Float[Array, "q n"]
) -> Float[jax.Array, "q n"]:
    """The best document of every modality, then the second of every modality, and so on.

    With two modalities, half of the first k results are of each. `z`, any scores on one scale, orders the documents of
    equal rank. Returns minus the place in the merged list.
    """
    order = jnp.lexsort((-jnp.asarray(z), ranks(scores, modality)), axis=1)
    place = jnp.argsort(order, axis=1)
    return jnp.where(jnp.isneginf(scores), -jnp.inf, -place.astype(jnp.float32))


@jax.jit
def rrf(scores: Float[Array, "q n"], modality: Int[Array, " n"]) -> Float[jax.Array, "q n"]:
    """Reciprocal rank fusion, 1 / (60 + rank) (Cormack et al. 2009).

    Each document is in the list of only one modality, so this is interleaving that leaves documents of equal rank tied.
    """
    fused = 1 / (RRF_CONSTANT + ranks(scores, modality).astype(jnp.float32))
    return jnp.where(jnp.isneginf(scores), -jnp.inf, fused)


@functools.partial(jax.jit, static_argnames=("num_modalities", "depth"))
def dbsf(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], num_modalities: int, depth: int | None = DBSF_DEPTH
) -> Float[jax.Array, "q n"]:
    """Distribution-based score fusion, (s - (mean - 3 std)) / (6 std) (Mazzeschi 2023, as in Qdrant).

    Mean and population std are those of each query's `depth` best documents of a modality. Documents beyond the depth
    get the same affine map. `depth=None` takes all documents of the modality ("per-query z"). Equal scores give 0.5.
    """

    def moments(kind):
        mine = jnp.where((modality == kind) & ~jnp.isneginf(scores), scores, -jnp.inf)
        best = mine if depth is None else jax.lax.top_k(mine, min(depth, scores.shape[1]))[0]
        real = ~jnp.isneginf(best)
        count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        mean = jnp.sum(jnp.where(real, best, 0), axis=1, keepdims=True) / count
        return mean, jnp.sqrt(jnp.sum(jnp.where(real, best - mean, 0) ** 2, axis=1, keepdims=True) / count)

    mean, std = (x[:, :, 0].T[:, modality] for x in jax.vmap(moments)(jnp.arange(num_modalities)))
    return jnp.where(std > 0, (scores - mean) / jnp.where(std > 0, 6 * std, 1), 0) + jnp.where(
        jnp.isneginf(scores), -jnp.inf, 0.5
    )


@jax.jit
def oracle(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], wanted: Bool[Array, "q m"]
) -> Float[jax.Array, "q n"]:
    """Searches only the modality of the answer: the upper bound of methods that keep the order within a modality."""
    return jnp.where(jnp.asarray(wanted)[:, modality], scores, -jnp.inf)


# Of embeddings.


@functools.partial(jax.jit, static_argnames="num_modalities")
def means(x: Float[Array, "n d"], modality: Int[Array, " n"], num_modalities: int) -> Float[jax.Array, "m d"]:
    """Mean unit vector of each modality; 0 for a modality without vectors."""
    one_hot = jnp.asarray(modality)[:, None] == jnp.arange(num_modalities)
    total = jnp.einsum("nm,nd->md", one_hot.astype(jnp.float32), x, precision="highest")
    return total / jnp.maximum(one_hot.sum(axis=0), 1)[:, None]


@jax.jit
def center(x: Float[Array, "n d"], modality: Int[Array, " n"], mean: Float[Array, "m d"]) -> Float[jax.Array, "n d"]:
    """unit(x - mean of its role), for unit x.

    GR-CLIP (2507.19054) has the roles query, text document and image document. I0T-post (2412.14384) has the roles text
    and image, so it centres a text query as it centres text documents.
    """
    return unit(jnp.asarray(x) - jnp.asarray(mean)[modality])


# Of the documents, over many queries.


def query_bias(blocks: Iterable[Float[Array, "_ n"]], temperature: float = TEMPERATURE) -> Float[jax.Array, " n"]:
    """How well each document c fits queries in general: temperature x log mean_r exp(z(r, c) / temperature).

    Subtracted from z(q, c), it gives temperature x log P(q | c) up to a constant, with P over the queries r. That is
    the inverted softmax of QB-Norm (Bogolin et al. 2022). Because z is standardized, one temperature means the same in
    every modality. A document that is near every query loses its lead, and so does a modality. In an index of inner
    products, a unit document stored as [c / std ; -mean / std - bias] has z - bias as its product with a query [q ; 1].

    Args:
      blocks: z-scores of unlabelled fit queries, some rows at a time; -inf for a pair that must not be compared.
      temperature: in standard deviations of the best scores. Near 0 only the nearest query counts; a large value takes
        the mean over queries.

    Returns:
      float32; +inf for a document that is compared with no query, so that it is never found.

    Raises:
      ValueError: if there is no block.
    """
    log_sum: jax.Array | None = None
    count: jax.Array | int = 0
    for z in blocks:
        here = jax.nn.logsumexp(jnp.asarray(z) / temperature, axis=0)
        log_sum = here if log_sum is None else jnp.logaddexp(log_sum, here)
        count += jnp.sum(~jnp.isneginf(z), axis=0)
    if log_sum is None:
        raise ValueError("query_bias: got no queries, expected at least one")
    return jnp.where(count > 0, temperature * (log_sum - jnp.log(jnp.maximum(count, 1))), jnp.inf)
