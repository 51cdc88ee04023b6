"""Exact search in JAX: a matrix of 16-bit codes for each modality, in blocks split over devices."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids, check_k
from vacsr_jax.search.filters import NOTHING, Fields, Where, matcher
from vacsr_jax.search.index import codes
from vacsr_jax.search.index.scan import AXIS, GROUP, Block, Found, merge_block
from vacsr_jax.search.text_entropy import ReferenceImages

BLOCK = 65_536  # documents in one product: 64 MB where d is 512
QUERIES = 64  # queries in one product: 16 MB of scores with a block
CANDIDATES = 64  # of a block whose low bytes are read, at least
MOST_CANDIDATES = 512  # from here on it is faster to read all of them
TEXT, IMAGE = "text", "image"  # a text has its bias when an image asks


@dataclass
class _Rows:
    """The documents of one modality: full blocks on the devices, and a rest on the host until it fills a block."""

    ids: list[str]
    blocks: list[Block]
    rest: np.ndarray  # int16 codes [n, d], n < block
    padded_rest: Block | None = None  # made at the first search
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # [n] with reference images, else empty
    block_bias: list[jax.Array] | None = None  # in the layout of the blocks, made at the first search


@dataclass
class ExactStore:
    """Documents and their unit vectors; each document is compared with each query.

    Vectors take 2 bytes a number. A score is the float32 cosine to 1e-5 or better, and a document's cosine with its own
    vector is 1 to 1e-6 (`codes`). The best k are the best k of all these scores: half of each vector is read, and the
    other half of the documents that may be among the best. It holds up to 2^31 documents of a modality, in one process.

    Attributes:
      devices: the devices to split the documents over; by default all that JAX has.
      reference_images: they give each document of the modality "text" a bias; see `seen_by`.
      metadata: id -> what `filtered` reads, of the documents that have any.
    """

    devices: Sequence[jax.Device] | None = None
    dim: int | None = None
    reference_images: ReferenceImages | None = None
    _rows: dict[str, _Rows] = field(default_factory=dict)
    all_ids: set[str] = field(default_factory=set)
    metadata: dict[str, Fields] = field(default_factory=dict)
    _kept: dict[str, np.ndarray] | None = None  # modality -> bool [n], in the view that `filtered` gives

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

    def filtered(self, where: Where) -> ExactStore:
        """The same documents but for those that a filter leaves out, to search in; see `search.filters`."""
        passes = matcher(where)
        view = copy.copy(self)
        view._kept = {
            name: np.fromiter((passes(self.metadata.get(x, NOTHING)) for x in rows.ids), bool, len(rows.ids))
            for name, rows in self._rows.items()
        }
        return view

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in self._rows if self._kept is None or self._kept[name].any())

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        if self._kept is not None:
            return int(self._kept[modality].sum()) if modality in self._kept else 0
        return len(self._rows[modality].ids) if modality in self._rows else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors, with padding."""
        return sum(
            array.nbytes
            for rows in self._rows.values()
            for array in jax.tree.leaves((rows.blocks, rows.rest, rows.padded_rest))
        )

    def add(self, embeddings: Vectors, ids: Names, modality: str) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero.

        Raises:
          ValueError: if an embedding is zero, not finite or of another dimension than those before, or if an id is not
            a text or is there already. Nothing is added then.
        """
        vectors = check_embeddings(embeddings, self.dim, "embeddings")
        ids = check_ids(ids, len(vectors), self.all_ids)
        if not isinstance(modality, str) or not modality:
            raise ValueError(f"modality: got {modality!r}, expected a name such as 'image'")
        self.append(codes.encode(vectors), ids, modality, self._bias_of(vectors, modality))

    def extend(self, other: ExactStore) -> None:
        """Adds the documents of another store as they are; raises ValueError, before any is added, for an id twice."""
        check_ids(list(other.all_ids), len(other.all_ids), self.all_ids)
        same = other.reference_images is self.reference_images
        for modality in other.modalities:
            ids, bias, start = other.ids(modality), other.bias(modality), 0
            for part in other.codes(modality):
                rows = slice(start, start + len(part))
                self.append(part, ids[rows], modality, bias[rows] if same else None)
                start += len(part)

    def append(self, new: np.ndarray, ids: list[str], modality: str, bias: np.ndarray | None = None) -> None:
        """Adds int16 codes [n, d] as they are, with ids known to be new; `bias` is computed if it is not given."""
        self.dim = new.shape[1]
        rows = self._rows.setdefault(modality, _Rows([], [], new[:0]))
        if self.reference_images is not None and modality == TEXT:
            bias = self._bias_of(codes.decode(new), modality) if bias is None else bias
            rows.bias, rows.block_bias = np.concatenate([rows.bias, bias]), None
        new = np.concatenate([rows.rest, new])
        full = len(new) - len(new) % self._block
        rows.blocks += [self._make_block(new[i : i + self._block]) for i in range(0, full, self._block)]
        rows.rest, rows.padded_rest = new[full:].copy(), None
        rows.ids += ids
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
        """The unit vectors of a modality, in the order they were added, float32 [n, d] block by block."""
        return map(codes.decode, self.codes(modality))

    def codes(self, modality: str) -> Iterator[np.ndarray]:
        """The same as they are stored, int16 [n, d]."""
        rows = self._rows[modality]
        for block in rows.blocks:
            yield codes.join(np.asarray(block.high), np.asarray(block.low))
        if len(rows.rest):
            yield rows.rest

    def vectors_of(self, ids: Sequence[str], modality: str) -> np.ndarray:
        """The unit vectors float32 [n, d] of documents of a modality, in the order of their ids."""
        numbers = {x: i for i, x in enumerate(self._rows[modality].ids)}
        rows, start = np.array([numbers[x] for x in ids]), 0
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for block in self.codes(modality):
            here = np.flatnonzero((rows >= start) & (rows < start + len(block)))
            found.append((here, block[rows[here] - start]))
            start += len(block)
        order = np.argsort(np.concatenate([here for here, _ in found]))
        return codes.decode(np.concatenate([x for _, x in found])[order])

    def ids(self, modality: str) -> list[str]:
        """The ids of a modality, in the order they were added."""
        return self._rows[modality].ids

    def bias(self, modality: str) -> np.ndarray:
        """The bias of each document of a modality, float32 [n], in the order they were added; empty without any."""
        return self._rows[modality].bias

    def _bias_of(self, vectors: np.ndarray, modality: str) -> np.ndarray | None:
        return self.reference_images.bias(vectors) if self.reference_images is not None and modality == TEXT else None

    def _topk(self, queries: np.ndarray, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        queries = codes.rotate(queries)
        candidates = max(CANDIDATES, 2 * _power_of_two(k))
        if candidates > MOST_CANDIDATES:
            return self._search(queries, k, modality, None)[:2]
        scores, numbers, missed = self._search(queries, k, modality, candidates)
        unsure = np.flatnonzero(missed >= scores[:, -1])  # more documents than candidates may be among the best
        if len(unsure):
            scores[unsure], numbers[unsure], _ = self._search(queries[unsure], k, modality, None)
        return scores, numbers

    def _search(
        self, queries: np.ndarray, k: int, modality: str, candidates: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Found` of all blocks, numpy: scores, numbers, missed."""
        # Sizes are rounded up to powers of two for few compilations.
        padded_k, padded_q = _power_of_two(k), _power_of_two(len(queries))
        padded = np.pad(queries, ((0, padded_q - len(queries)), (0, 0)))
        nothing = jnp.full((padded_q, padded_k), -jnp.inf)
        best = Found(nothing, jnp.zeros((padded_q, padded_k), jnp.int32), nothing[:, 0])
        rows = self._rows[modality]
        start, count = 0, len(rows.ids)
        blocks = self._searched_blocks(rows)
        for block, bias in zip(blocks, self._searched_bias(modality, blocks), strict=True):
            best = merge_block(best, padded, block, bias, start, count - start, mesh=self._mesh, candidates=candidates)
            start += len(block.high)
        scores, numbers, missed = (np.array(x) for x in jax.device_get(best))
        return scores[: len(queries), :k], numbers[: len(queries), :k], missed[: len(queries)]

    def _searched_blocks(self, rows: _Rows) -> list[Block]:
        n = len(rows.rest)
        if n == 0:
            return list(rows.blocks)
        if rows.padded_rest is None:
            # Powers of two, then eighths of a block, for few compilations and little padding.
            step = max(self._least, self._block // 8)
            capacity = -(-n // step) * step if n > step else self._least * _power_of_two(-(-n // self._least))
            rows.padded_rest = self._make_block(np.pad(rows.rest, ((0, capacity - n), (0, 0))))
        return [*rows.blocks, *([rows.padded_rest] if n else [])]

    def _searched_bias(self, modality: str, blocks: list[Block]) -> list[jax.Array] | list[None]:
        rows = self._rows[modality]
        biased = self._biased and len(rows.bias) > 0
        if self._kept is not None:  # what a filter leaves out has the score -inf
            return self._in_blocks(
                np.where(self._kept[modality], rows.bias if biased else np.float32(0), -np.inf), blocks
            )
        if not biased:
            return [None] * len(blocks)
        if rows.block_bias is None:
            rows.block_bias = self._in_blocks(rows.bias, blocks)
        return rows.block_bias

    def _in_blocks(self, numbers: np.ndarray, blocks: list[Block]) -> list[jax.Array]:
        """A number for each document, float32, in the layout of the blocks."""
        lengths = [len(block.high) for block in blocks]
        padded = np.pad(numbers.astype(np.float32), (0, sum(lengths) - len(numbers)))
        return [self._put(x) for x in np.split(padded, np.cumsum(lengths)[:-1])]

    def _make_block(self, rows: np.ndarray) -> Block:
        scales, (high, low) = codes.scales(rows), codes.split(rows)
        return Block(*map(self._put, (high, low, scales, scales * codes.lengths(low).astype(np.float32))))

    def _put(self, rows: np.ndarray) -> jax.Array:
        # A copy, because JAX may keep using the memory of an array that it is given.
        return jax.device_put(rows.copy(), NamedSharding(self._mesh, P(AXIS)))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
