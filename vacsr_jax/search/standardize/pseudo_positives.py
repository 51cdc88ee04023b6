"""Finds each query's best document of every modality, in chunks on one device or split over a mesh."""

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
QUERY, DOCUMENTS = "query", "documents"  # axes of a mesh


def top1_scores(
    queries: Float[Array, "q d"],
    documents: Float[Array, "n d"],
    modality: Int[Array, " n"],
    num_modalities: int,
    *,
    exclude: Int[Array, "q e"] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Float[jax.Array, "q m"]:
    """Scores of the pseudo-positives: x_i^m = max over documents c of modality m of cos(q_i, c) (method, eq. 11).

    Queries and documents are unit vectors of any float type. Products are summed in float32.

    Args:
      modality: the number of each document's modality. A row with a number outside 0..num_modalities-1 is padding.
      exclude: rows of the documents that a query must not find, such as the query itself; -1 means none.
      chunk: how many documents are compared at once; the default holds 64 MB of scores.
      mesh: devices to share the work. Its axis "query" splits the queries, its axis "documents" the documents; it has
        one or both. Each device finds the best of its own documents, and then the devices exchange one maximum of
        q x m numbers. Rows that do not divide evenly are padded.

    Returns:
      float32; -inf if a query has no candidate of a modality.

    Raises:
      ValueError: if the mesh has neither axis.
    """
    if exclude is None:
        exclude = np.zeros((len(queries), 0), np.int32)
    if len(documents) == 0:
        return jnp.full((len(queries), num_modalities), -jnp.inf)
    if mesh is not None:
        return _top1_on_mesh(mesh, queries, documents, modality, exclude, num_modalities, chunk)
    if chunk is None:
        chunk = max(128, CHUNK_SCORES // max(1, len(queries)))
    return _top1(queries, documents, modality, exclude, num_modalities, min(chunk, len(documents)))


@functools.partial(jax.jit, static_argnames=("num_modalities", "chunk"))
def _top1(queries, documents, modality, exclude, num_modalities: int, chunk: int):
    def best_of_chunk(start):
        candidates = jax.lax.dynamic_slice_in_dim(documents, start, chunk)
        kinds = jax.lax.dynamic_slice_in_dim(modality, start, chunk)
        hidden = exclude - start
        hidden = jnp.where((hidden >= 0) & (hidden < chunk), hidden, -1)
        return best_of_each(hide(cosines(queries, candidates), hidden), kinds, num_modalities)

        # The last chunk starts earlier instead of being padded: a document seen twice changes no maximum.

    starts = jnp.minimum(jnp.arange(0, len(documents), chunk), len(documents) - chunk)
    return jnp.max(jax.lax.map(best_of_chunk, starts), axis=0)


def _top1_on_mesh(mesh: Mesh, queries, documents, modality, exclude, num_modalities: int, chunk: int | None):
    q, n = (name if name in mesh.axis_names else None for name in (QUERY, DOCUMENTS))
    if not (q or n):
        raise ValueError(f"mesh: got the axes {mesh.axis_names}, expected {QUERY}, {DOCUMENTS} or both")
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever the axes of the given mesh are

    def share(x, axis, value=0):
        parts = mesh.shape[axis] if axis else 1
        padding = [(0, -len(x) % parts)] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x, padding, constant_values=value) if padding[0][1] else x
        return jax.device_put(x, NamedSharding(mesh, P(axis)))

    def local(queries, documents, modality, exclude):
        if n:
            exclude = jnp.where(exclude < 0, -1, exclude - jax.lax.axis_index(n) * len(documents))
        best = top1_scores(queries, documents, modality, num_modalities, exclude=exclude, chunk=chunk)
        return jax.lax.pmax(best, n) if n else best

    shared = (share(queries, q), share(documents, n), share(modality, n, -1), share(exclude, q, -1))
    run = jax.shard_map(local, mesh=mesh, in_specs=(P(q), P(n), P(n), P(q)), out_specs=P(q))
    return jax.jit(run)(*shared)[: len(queries)]


@jax.jit
def cosines(queries: Float[Array, "q d"], documents: Float[Array, "n d"]) -> Float[jax.Array, "q n"]:
    """Inner products of unit vectors, float32 for any type of storage. A vector that is not finite scores -inf."""
    scores = jnp.einsum("qd,nd->qn", queries, documents, precision="highest", preferred_element_type=jnp.float32)
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


@jax.jit
def hide(scores: Float[Array, "q n"], exclude: Int[Array, "q e"]) -> Float[jax.Array, "q n"]:
    """The scores with -inf for the rows that each query excludes; -1 excludes none."""
    scores = jnp.asarray(scores)
    columns = jnp.where(exclude < 0, scores.shape[1], exclude)
    return scores.at[jnp.arange(len(scores))[:, None], columns].set(-jnp.inf, mode="drop")


@functools.partial(jax.jit, static_argnames="num_modalities")
def best_of_each(
    scores: Float[Array, "q n"], modality: Int[Array, " n"], num_modalities: int
) -> Float[jax.Array, "q m"]:
    """Each query's best score of every modality; -inf for a modality without candidates."""
    best = jax.vmap(lambda kind: jnp.max(jnp.where(modality == kind, scores, -jnp.inf), axis=1), out_axes=1)
    return best(jnp.arange(num_modalities))


@functools.partial(jax.jit, static_argnames="num_modalities")
def labelled_scores(
    queries: Float[Array, "q d"],
    documents: Float[Array, "n d"],
    modality: Int[Array, " n"],
    num_modalities: int,
    answers: Int[Array, "q a"],
) -> Float[jax.Array, "q m"]:
    """Scores of the labelled variant: x_i^m = the best cosine of query i with its true answers of modality m.

    `answers` are rows of the documents; -1 means none. The score is -inf if a query has no answer of a modality.
    """
    rows = jnp.maximum(answers, 0)
    scores = jnp.einsum(
        "qd,qad->qa", queries, jnp.asarray(documents)[rows], precision="highest", preferred_element_type=jnp.float32
    )
    kinds = jnp.where(answers >= 0, jnp.asarray(modality)[rows], -1)
    is_of = kinds[:, :, None] == jnp.arange(num_modalities)
    return jnp.max(jnp.where(is_of, scores[:, :, None], -jnp.inf), axis=1, initial=-jnp.inf)
