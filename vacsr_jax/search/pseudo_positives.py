"""Each query's best candidate of every modality: over one bank, chunk by chunk, or over a bank shared out on a mesh."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray

CHUNK_SCORES = 2**24  # scores held at once: 64 MB of float32
QUERY, BANK = "query", "bank"  # axes of a mesh


@jax.jit
def unit(x: Float[Array, "*b d"]) -> Float[jax.Array, "*b d"]:
    """x / |x| along the last axis, computed in float32; a vector of zeros stays one."""
    x = jnp.asarray(x).astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def top1_scores(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    modality: Int[Array, " n"],
    num_modalities: int,
    *,
    exclude: Int[Array, "q e"] | None = None,
    chunk: int | None = None,
) -> Float[jax.Array, "q m"]:
    """Scores of the pseudo-positives: x_i^m = max over candidates c of modality m of cos(q_i, c) (method, eq. 11).

    Queries and bank are unit vectors of any float type; products are summed in float32. The bank is read in chunks
    (of `chunk` rows; default: 64 MB of scores at once).

    Args:
      modality: the number of each candidate's modality; a row with one outside 0..num_modalities-1 is padding.
      exclude: rows of the bank that are no candidates of a query, such as the query itself; -1 is none.

    Returns:
      float32; -inf where a query has no candidate of a modality.
    """
    n = len(bank)
    if exclude is None:
        exclude = np.zeros((len(queries), 0), np.int32)
    if n == 0:
        return jnp.full((len(queries), num_modalities), -jnp.inf)
    if chunk is None:
        chunk = max(128, CHUNK_SCORES // max(1, len(queries)))
    return _top1(queries, bank, modality, exclude, num_modalities, min(chunk, n))


@functools.partial(jax.jit, static_argnames=("num_modalities", "chunk"))
def _top1(queries, bank, modality, exclude, num_modalities: int, chunk: int):
    rows = jnp.arange(len(queries))[:, None]

    def best_of_chunk(start):
        candidates = jax.lax.dynamic_slice_in_dim(bank, start, chunk)
        kinds = jax.lax.dynamic_slice_in_dim(modality, start, chunk)
        scores = cosines(queries, candidates)
        hidden = exclude - start
        hidden = jnp.where((hidden >= 0) & (hidden < chunk), hidden, chunk)
        scores = scores.at[rows, hidden].set(-jnp.inf, mode="drop")
        best_of = jax.vmap(lambda kind: jnp.max(jnp.where(kinds == kind, scores, -jnp.inf), axis=1), out_axes=1)
        return best_of(jnp.arange(num_modalities))

    # The last chunk starts earlier rather than being padded: seeing a candidate twice changes no maximum.
    starts = jnp.minimum(jnp.arange(0, len(bank), chunk), len(bank) - chunk)
    return jnp.max(jax.lax.map(best_of_chunk, starts), axis=0)


@jax.jit
def cosines(queries: Float[Array, "q d"], bank: Float[Array, "n d"]) -> Float[jax.Array, "q n"]:
    """Inner products of unit vectors, float32 whatever the storage. A vector that is not finite scores -inf."""
    scores = jnp.einsum("qd,nd->qn", queries, bank, precision="highest", preferred_element_type=jnp.float32)
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


@functools.partial(jax.jit, static_argnames="num_modalities")
def labelled_scores(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    modality: Int[Array, " n"],
    num_modalities: int,
    answers: Int[Array, "q a"],
) -> Float[jax.Array, "q m"]:
    """The labelled variant's scores: x_i^m = best cosine of query i with its true answers of modality m.

    `answers` are rows of the bank, -1 is none; -inf where a query has no answer of a modality.
    """
    rows = jnp.maximum(answers, 0)
    scores = jnp.einsum(
        "qd,qad->qa", queries, jnp.asarray(bank)[rows], precision="highest", preferred_element_type=jnp.float32
    )
    kinds = jnp.where(answers >= 0, jnp.asarray(modality)[rows], -1)
    is_of = kinds[:, :, None] == jnp.arange(num_modalities)
    return jnp.max(jnp.where(is_of, scores[:, :, None], -jnp.inf), axis=1, initial=-jnp.inf)


def sharded_top1_scores(
    mesh: Mesh,
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    modality: Int[Array, " n"],
    num_modalities: int,
    *,
    exclude: Int[Array, "q e"] | None = None,
    chunk: int | None = None,
) -> Float[jax.Array, "q m"]:
    """`top1_scores` over a mesh with an axis "bank", "query", or both, each sharing out the rows of its array.

    Every device finds the best of its own candidates; one maximum over the bank axis, of queries x modalities
    numbers, is all that travels. Rows that do not divide evenly are padded.
    """
    axes = {name: name if name in mesh.axis_names else None for name in (QUERY, BANK)}
    if not any(axes.values()):
        raise ValueError(f"mesh: got the axes {mesh.axis_names}, expected {QUERY}, {BANK} or both")
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever the caller's are
    if exclude is None:
        exclude = np.zeros((len(queries), 0), np.int32)

    def share(x, axis, value=0):
        parts = mesh.shape[axis] if axis else 1
        padding = [(0, -len(x) % parts)] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x, padding, constant_values=value) if padding[0][1] else x
        return jax.device_put(x, NamedSharding(mesh, P(axis)))

    def local(queries, bank, modality, exclude):
        if axes[BANK]:
            exclude = jnp.where(exclude < 0, -1, exclude - jax.lax.axis_index(BANK) * len(bank))
        best = top1_scores(queries, bank, modality, num_modalities, exclude=exclude, chunk=chunk)
        return jax.lax.pmax(best, BANK) if axes[BANK] else best

    q, n = axes[QUERY], axes[BANK]
    shared = (share(queries, q), share(bank, n), share(modality, n, -1), share(exclude, q, -1))
    run = jax.shard_map(local, mesh=mesh, in_specs=(P(q), P(n), P(n), P(q)), out_specs=P(q))
    return jax.jit(run)(*shared)[: len(queries)]
