"""Exact search in JAX: a bfloat16 matrix for each modality, in blocks split over devices, with float32 scores."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids, check_k
from vacsr_jax.search.text_entropy import ReferenceImages

BLOCK = 65_536  # documents in one product: 64 MB where d is 512
QUERIES = 64  # queries in one product: 16 MB of scores with a block
GROUP = 128  # neighbours of which one maximum is taken first; see `top_k`
AXIS = "documents"
TEXT, IMAGE = "text", "image"  # a text has its bias when an image asks


@dataclass
class _Rows:
    """The documents of one modality: full blocks on the devices, and a rest on the host until it fills a block."""

    ids: list[str]
    blocks: list[jax.Array]
    rest: np.ndarray  # bfloat16 [n, d], n < block
    padded_rest: jax.Array | None = None  # made at the first search
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # [n] with reference images, else empty
    block_bias: list[jax.Array] | None = None  # in the layout of the blocks, made at the first search


@dataclass
class ExactStore:
    """Documents and their unit vectors; each document is compared with each query.

    Vectors and queries are scaled to unit length and rounded to bfloat16, 2 bytes a number. Rounding moves a cosine by
    up to 5e-4 (measured, d = 512). Products are summed in float32. It holds up to 2^31 documents of a modality, in one
    process.

    Attributes:
      devices: the devices to split the documents over; by default all that JAX has.
      reference_images: they give each document of the modality "text" a bias; see `seen_by`.
    """

    devices: Sequence[jax.Device] | None = None
    dim: int | None = None
    reference_images: ReferenceImages | None = None
    _rows: dict[str, _Rows] = field(default_factory=dict)
    all_ids: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._mesh = Mesh(np.array(self.devices or jax.devices()), (AXIS,))
        self._least = 2 * GROUP * self._mesh.size  # rows of the smallest block
        self._block = self._least << max(1, BLOCK // self._least).bit_length() - 1
        self._biased = False
        if self.reference_images is not None:
            self.dim = self.reference_images.images.shape[1]

    def seen_by(self, query_modality: str) -> ExactStore:
        """The same documents as queries of a modality see them.

        If there are reference images and the queries are images, texts are found by cosine plus bias. Otherwise every
        document is found by its cosine.
        """
        view = copy.copy(self)
        view._biased = self.reference_images is not None and query_modality == IMAGE
        return view

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        return len(self._rows[modality].ids) if modality in self._rows else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors, with padding."""
        rest = [array for rows in self._rows.values() for array in (rows.rest, rows.padded_rest) if array is not None]
        return sum(block.nbytes for rows in self._rows.values() for block in rows.blocks) + sum(a.nbytes for a in rest)

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        Raises:
          ValueError: if an embedding is zero, not finite or of another dimension than those before, or if an id is not
            a text or is there already. Nothing is added then.
        """
        vectors = check_embeddings(embeddings, self.dim, "embeddings").astype(ml_dtypes.bfloat16)
        ids = check_ids(ids, len(vectors), self.all_ids)
        if not isinstance(modality, str) or not modality:
            raise ValueError(f"modality: got {modality!r}, expected a name such as 'image'")
        self.append(vectors, ids, modality)

    def extend(self, other: ExactStore) -> None:
        """Adds the documents of another store as they are; raises ValueError, before any is added, for an id twice."""
        check_ids(list(other.all_ids), len(other.all_ids), self.all_ids)
        same = other.reference_images is self.reference_images
        for modality in other.modalities:
            ids, bias, start = other.ids(modality), other.bias(modality), 0
            for vectors in other.vectors(modality):
                part = slice(start, start + len(vectors))
                self.append(vectors, ids[part], modality, bias[part] if same else None)
                start += len(vectors)

    def append(self, vectors: np.ndarray, ids: list[str], modality: str, bias: np.ndarray | None = None) -> None:
        """Adds bfloat16 unit vectors as they are, with ids known to be new; `bias` is computed if it is not given."""
        self.dim = vectors.shape[1]
        rows = self._rows.setdefault(modality, _Rows([], [], vectors[:0]))
        if self.reference_images is not None and modality == TEXT and bias is None:
            bias = self.reference_images.bias(vectors)
        vectors = np.concatenate([rows.rest, vectors])
        full = len(vectors) - len(vectors) % self._block
        rows.blocks += [self._put(vectors[i : i + self._block]) for i in range(0, full, self._block)]
        rows.rest, rows.padded_rest = vectors[full:].copy(), None
        rows.ids += ids
        if self.reference_images is not None and modality == TEXT:
            rows.bias, rows.block_bias = np.concatenate([rows.bias, bias]), None
        self.all_ids.update(ids)

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        The bias of texts is part of their score where `seen_by` says so. Equal scores come in the order the documents
        were added.

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, or if there are fewer than k documents.
        """
        queries = check_embeddings(queries, self.dim, "queries")
        check_k(k, self.count(modality), f"{modality} documents")
        parts = [self._topk(queries[i : i + QUERIES], k, modality) for i in range(0, len(queries), QUERIES)]
        scores, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
        ids = self._rows[modality].ids
        return np.array([[ids[number] for number in line] for line in numbers], object), scores

    def vectors(self, modality: str) -> Iterator[np.ndarray]:
        """The stored unit vectors of a modality, in the order they were added, bfloat16 [n, d] block by block."""
        rows = self._rows[modality]
        yield from (np.asarray(block) for block in rows.blocks)
        if len(rows.rest):
            yield rows.rest

    def ids(self, modality: str) -> list[str]:
        """The ids of a modality, in the order they were added."""
        return self._rows[modality].ids

    def bias(self, modality: str) -> np.ndarray:
        """The bias of each document of a modality, float32 [n], in the order they were added; empty without any."""
        return self._rows[modality].bias

    def _topk(self, queries: np.ndarray, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        # Sizes are rounded up to powers of two for few compilations. A single query takes a slow path of XLA on CPUs.
        padded_k, padded_q = _power_of_two(k), max(4, _power_of_two(len(queries)))
        padded = np.zeros((padded_q, queries.shape[1]), ml_dtypes.bfloat16)
        padded[: len(queries)] = queries
        best = (jnp.full((padded_q, padded_k), -jnp.inf), jnp.zeros((padded_q, padded_k), jnp.int32))
        start, count = 0, self.count(modality)
        rows = self._rows[modality]
        blocks = self._searched_blocks(rows)
        for block, bias in zip(blocks, self._searched_bias(rows, blocks), strict=True):
            best = _merge_block(*best, padded, block, bias, start, count - start, mesh=self._mesh)
            start += len(block)
        scores, numbers = jax.device_get(best)
        return scores[: len(queries), :k], numbers[: len(queries), :k]

    def _searched_blocks(self, rows: _Rows) -> list[jax.Array]:
        n = len(rows.rest)
        if n == 0:
            return list(rows.blocks)
        if rows.padded_rest is None:
            # Powers of two, then eighths of a block, for few compilations and little padding.
            step = max(self._least, self._block // 8)
            capacity = -(-n // step) * step if n > step else self._least * _power_of_two(-(-n // self._least))
            rows.padded_rest = self._put(np.pad(rows.rest, ((0, capacity - n), (0, 0))))
        return [*rows.blocks, rows.padded_rest]

    def _searched_bias(self, rows: _Rows, blocks: list[jax.Array]) -> list[jax.Array] | list[None]:
        if not self._biased or not len(rows.bias):
            return [None] * len(blocks)
        if rows.block_bias is None:
            padded = np.pad(rows.bias, (0, sum(map(len, blocks)) - len(rows.bias)))
            rows.block_bias = [self._put(x) for x in np.split(padded, np.cumsum([len(b) for b in blocks])[:-1])]
        return rows.block_bias

    def _put(self, rows: np.ndarray) -> jax.Array:
        # A copy, because JAX may keep using the memory of an array that it is given.
        return jax.device_put(rows.copy(), NamedSharding(self._mesh, P(AXIS)))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@functools.partial(jax.jit, static_argnames="mesh")
def _merge_block(best_scores, best_numbers, queries, block, bias, start, count, *, mesh: Mesh):
    """Merges the k best so far with those of a block of documents.

    The first document of the block has the number `start`, and `count` documents are left. `bias` [rows of the block]
    is added to its scores; None adds nothing.
    """
    k = best_scores.shape[1]

    def local(queries, rows, bias):
        first = jax.lax.axis_index(AXIS) * len(rows)
        scores = jax.lax.dot_general(queries, rows, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        scores = scores if bias is None else scores + bias
        scores = jnp.where(first + jnp.arange(len(rows)) < count, scores, -jnp.inf)
        scores, numbers = top_k(scores, min(k, len(rows)))
        return scores, first + numbers

    out = P(None, AXIS)
    search = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=(out, out))
    scores, numbers = search(queries, block, bias)
    # Earlier blocks and earlier devices come first, so equal scores keep the order of the documents.
    scores, kept = jax.lax.top_k(jnp.concatenate([best_scores, scores], axis=1), k)
    return scores, jnp.take_along_axis(jnp.concatenate([best_numbers, start + numbers], axis=1), kept, axis=1)


def top_k(scores: Float[jax.Array, "q n"], k: int) -> tuple[Float[jax.Array, "q k"], Int[jax.Array, "q k"]]:
    """`jax.lax.top_k`, exact with ties, without sorting whole rows.

    The k best of a row lie in the k groups of 128 neighbours with the largest maxima. On a CPU this is four times as
    fast for n = 65,536 and k = 20.
    """
    q, n = scores.shape
    if n % GROUP or n // GROUP <= k:
        best, place = jax.lax.top_k(scores, k)
        return best, place
    groups = scores.reshape(q, n // GROUP, GROUP)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=2), k)[1], axis=1)
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(q, k * GROUP)
    best, place = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(chosen, place // GROUP, axis=1) * GROUP + place % GROUP
