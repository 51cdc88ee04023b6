"""Similarity standardization: one scale for texts and images, no labels, no training (Yamashita et al. 2025).

Every query's best document of each modality counts as its match. The mean and the standard deviation of these scores,
one pair for each modality, turn any cosine into a z-score that can be compared across modalities. Every function here
is pure, apart from `save` and `load`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from vacsr_jax.atomic_files import read_json, to_json, write_text
from vacsr_jax.search.standardize.pseudo_positives import Array, top1_scores

Leaf = Any  # an array, or what a tree map puts in its place
QueryModality = Int[Array, " q"] | Int[Array, ""] | int  # each query's row of the statistics, or one row for all
MIN_STD = 1e-6  # a smaller standard deviation of cosines is rounding, not a scale
FEW_QUERIES = 200  # statistics of fewer queries shift z-scores by several hundredths
AGED = 2.0  # a modality that grew by this factor needs a new fit; see `aged`


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["count", "mean", "m2"],
    meta_fields=["query_modalities", "modalities", "pool_sizes", "model_id"],
)
@dataclasses.dataclass(frozen=True)
class ModalityStats:
    """Moments of the match scores: a row for each modality of the queries, a column for each modality of the documents.

    Attributes:
      count: float [query modalities, modalities], the number of scores seen.
      mean: their mean; a cosine.
      m2: the sum of their squared deviations from the mean.
      query_modalities, modalities: the names of rows and columns.
      pool_sizes: the number of documents of each modality that the best one was chosen from.
      model_id: the model that made the embeddings; the statistics do not hold for another model.
    """

    count: Leaf
    mean: Leaf
    m2: Leaf
    query_modalities: tuple[str, ...]
    modalities: tuple[str, ...]
    pool_sizes: tuple[int, ...]
    model_id: str = ""

    @property
    def variance(self) -> jax.Array:
        """Population variance, m2 / count (ddof 0; the paper does not say which); 0 if no score was seen."""
        return self.m2 / jnp.maximum(self.count, 1)

    @property
    def std(self) -> jax.Array:
        return jnp.sqrt(self.variance)

    @property
    def standard_error_mean(self) -> jax.Array:
        """std / sqrt(count); infinite if no score was seen."""
        return jnp.where(self.count > 0, self.std / jnp.sqrt(jnp.maximum(self.count, 1)), jnp.inf)

    @property
    def standard_error_std(self) -> jax.Array:
        """std / sqrt(2 (count - 1)), for normal scores; infinite for fewer than two."""
        return jnp.where(self.count > 1, self.std / jnp.sqrt(2 * jnp.maximum(self.count - 1, 1)), jnp.inf)


def empty(
    modalities: Sequence[str],
    pool_sizes: Sequence[int] | None = None,
    *,
    query_modalities: Sequence[str] = ("text",),
    model_id: str = "",
) -> ModalityStats:
    """Statistics without any score, the identity of `merge`.

    Raises:
      ValueError: if a name occurs twice, if there is no name, or if `pool_sizes` and `modalities` differ in length.
    """
    pools = tuple(int(n) for n in (pool_sizes if pool_sizes is not None else [0] * len(modalities)))
    for name, names in (("modalities", modalities), ("query_modalities", query_modalities)):
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{name}: got {list(names)}, expected at least one name and none twice")
    if len(pools) != len(modalities):
        raise ValueError(f"pool_sizes: got {len(pools)} numbers for the modalities {list(modalities)}; give one each")
    shape = (len(query_modalities), len(modalities))
    count, mean, m2 = (jnp.zeros(shape, jnp.float32) for _ in range(3))
    return ModalityStats(count, mean, m2, tuple(query_modalities), tuple(modalities), pools, model_id)


def fit(
    queries: Float[Array, "q d"],
    documents: Float[Array, "n d"],
    modality: Int[Array, " n"],
    modalities: Sequence[str],
    *,
    query_modality: QueryModality = 0,
    query_modalities: Sequence[str] = ("text",),
    exclude: Int[Array, "q e"] | None = None,
    model_id: str = "",
    mesh: Mesh | None = None,
) -> ModalityStats:
    """Fits statistics of unlabelled queries over documents, both unit vectors: `top1_scores`, then `update`.

    When documents are added, the old ones need not be compared again: the score over all documents is the larger of the
    score over the old ones and the score over the new ones. `exclude` and `mesh` are those of `top1_scores`.
    """
    kinds = np.asarray(modality)
    pool_sizes = [int(np.sum(kinds == i)) for i in range(len(modalities))]
    stats = empty(modalities, pool_sizes, query_modalities=query_modalities, model_id=model_id)
    scores = top1_scores(queries, documents, modality, len(modalities), exclude=exclude, mesh=mesh)
    return update(stats, scores, query_modality)


@jax.jit
def update(stats: ModalityStats, scores: Float[Array, "q m"], query_modality: QueryModality = 0) -> ModalityStats:
    """Adds the scores of more queries: mean_m = mean_i x_i^m, std_m = std_i x_i^m (method, eq. 12).

    A score that is not finite means a query without a candidate, and is not counted.
    """
    return merge(stats, dataclasses.replace(stats, **_moments(stats, scores, query_modality)))


def _moments(stats: ModalityStats, scores, query_modality) -> dict[str, Any]:
    scores = jnp.asarray(scores).astype(jnp.float32)
    kinds = jnp.broadcast_to(jnp.asarray(query_modality), scores.shape[:1])
    is_of = kinds == jnp.arange(len(stats.query_modalities))[:, None]
    seen = is_of[:, :, None] & jnp.isfinite(scores)  # [query modalities, q, m]
    count = jnp.sum(seen, axis=1, dtype=jnp.float32)
    n = jnp.maximum(count, 1)

    def total(x):
        return jnp.sum(jnp.where(seen, x, 0), axis=1)

    # Two passes, because a float32 sum of a million scores of one sign keeps only four digits.
    rough = total(scores) / n
    mean = rough + total(scores - rough[:, None]) / n
    return {"count": count, "mean": mean, "m2": total((scores - mean[:, None]) ** 2)}


def merge(a: ModalityStats, b: ModalityStats) -> ModalityStats:
    """Merges the statistics of two sets of queries, exactly (Chan et al. 1983).

    delta = mean_b - mean_a;  mean = mean_a + delta n_b / n;  m2 = m2_a + m2_b + delta^2 n_a n_b / n. If pool sizes
    differ, the larger one is kept.

    Raises:
      ValueError: if the two differ in modalities or in model.
    """
    for name in ("query_modalities", "modalities", "model_id"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(f"statistics with the {name} {getattr(a, name)!r} and {getattr(b, name)!r} do not merge")
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    delta = b.mean - a.mean
    return dataclasses.replace(
        a,
        count=count,
        mean=a.mean + delta * share,
        m2=a.m2 + b.m2 + delta**2 * a.count * share,
        pool_sizes=tuple(max(pools) for pools in zip(a.pool_sizes, b.pool_sizes, strict=True)),
    )


def mean_only(stats: ModalityStats) -> ModalityStats:
    """The variant that only shifts: every standard deviation is 1, so each modality gets a constant bias."""
    return dataclasses.replace(stats, m2=stats.count)


def shrink(stats: ModalityStats, strength: float) -> ModalityStats:
    """Draws variances towards the pooled variance of their row: var_m <- (n var_m + n0 var_pool) / (n + n0).

    `strength` is n0, in queries; 0 changes nothing. It helps with few fit queries, whose variances are noisy.
    """
    pooled = jnp.sum(stats.m2, axis=1, keepdims=True) / jnp.maximum(jnp.sum(stats.count, axis=1, keepdims=True), 1)
    n = stats.count
    variance = (stats.m2 + strength * pooled) / jnp.maximum(n + strength, 1)
    return dataclasses.replace(stats, m2=jnp.where(n > 0, variance * n, 0))


def scale(stats: ModalityStats) -> tuple[jax.Array, jax.Array]:
    """Mean and std [query modalities, modalities] in the form that `standardize` uses: always finite, std above 0.

    A modality with fewer than two scores, or with a std below 1e-6, takes the pooled std of the others in its row.
    If none in the row has a std, all take 1, so that only the means are subtracted. A modality without scores takes the
    mean of the others."""

    def pooled(x, weight):
        total = jnp.sum(weight, axis=1, keepdims=True)
        return jnp.sum(x * weight, axis=1, keepdims=True) / jnp.maximum(total, 1), total > 0

    usable = (stats.count > 1) & (stats.std > MIN_STD)
    variance, any_usable = pooled(stats.variance, jnp.where(usable, stats.count, 0))
    std = jnp.where(usable, stats.std, jnp.where(any_usable, jnp.sqrt(variance), 1.0))
    mean, _ = pooled(stats.mean, stats.count)
    return jnp.where(stats.count > 0, stats.mean, mean), std


@jax.jit
def standardize(
    scores: Float[Array, "q n"],
    modality: Int[Array, " n"] | Int[Array, "q n"],
    stats: ModalityStats,
    query_modality: QueryModality = 0,
) -> Float[jax.Array, "q n"]:
    """z(q, c) = (cos(q, c) - mean_m(c)) / std_m(c) (method, eq. 13); rank by it, larger is better.

    `modality` holds the documents' modalities, [n] for all queries or [q n] for each query. A score of -inf stays -inf.
    NaN becomes -inf, and so does the score of a document whose modality the statistics do not have, so that no NaN
    reaches a ranking. `scale` says what replaces a std of 0.
    """
    rows = jnp.broadcast_to(jnp.asarray(query_modality), scores.shape[:1])[:, None]
    columns = jnp.broadcast_to(jnp.asarray(modality), scores.shape)
    mean, std = (x[rows, columns] for x in scale(stats))
    z = (jnp.asarray(scores).astype(jnp.float32) - mean) / std
    known = (modality >= 0) & (modality < len(stats.modalities))
    return jnp.where(jnp.isnan(z) | ~known, -jnp.inf, z)


def aged(stats: ModalityStats, pool_sizes: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Modalities that have at least doubled or halved since the fit: name -> (then, now).

    The best score among n unrelated documents rises with n, so the mean of such a modality has drifted. Fit it again.
    """
    pools = zip(stats.modalities, stats.pool_sizes, pool_sizes, strict=True)
    return {name: (then, now) for name, then, now in pools if now >= AGED * then or AGED * now <= then}


# Files.


def to_dict(stats: ModalityStats) -> dict:
    fields = {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
    return {name: np.asarray(x).tolist() if name in ("count", "mean", "m2") else x for name, x in fields.items()}


def from_dict(values: dict) -> ModalityStats:
    """The inverse of `to_dict`.

    Raises:
      ValueError: if a field is missing or unknown, or an array does not hold finite numbers in the shape that the names
        imply.
    """
    wanted = {field.name for field in dataclasses.fields(ModalityStats)}
    if not isinstance(values, dict) or set(values) != wanted:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"statistics: got {got}, expected the fields {sorted(wanted)}")
    for name in ("modalities", "query_modalities"):
        if not isinstance(values[name], list | tuple) or not all(isinstance(x, str) for x in values[name]):
            raise ValueError(f"statistics: {name} is {values[name]!r:.60}, expected a list of names")
    names = {name: tuple(values[name]) for name in ("modalities", "query_modalities")}
    stats = empty(pool_sizes=values["pool_sizes"], model_id=str(values["model_id"]), **names)
    arrays: dict[str, Any] = {}
    for name in ("count", "mean", "m2"):
        try:
            x = np.array(values[name], np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"statistics: {name} is not an array of numbers ({error})") from error
        if x.shape != stats.count.shape or not np.isfinite(x).all() or (name != "mean" and (x < 0).any()):
            raise ValueError(
                f"statistics: {name} is {values[name]}, expected finite numbers of shape {stats.count.shape}"
            )
        arrays[name] = jnp.asarray(x)
    return dataclasses.replace(stats, **arrays)


def save(stats: ModalityStats, path: str | Path) -> None:
    write_text(Path(path), to_json(to_dict(stats)))


def load(path: str | Path) -> ModalityStats:
    """The inverse of `save`; raises ValueError, naming the file, if `save` did not write it."""
    try:
        return from_dict(read_json(path))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path} holds no statistics of similarity: {error}; fit them again with `vacsr standardize fit`"
        ) from error
