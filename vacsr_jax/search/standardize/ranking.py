"""Ranks several modalities together, with any store that ranks the documents of one modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from vacsr_jax.search.checks import Vectors, check_k
from vacsr_jax.search.standardize.statistics import ModalityStats, empty, scale, update


@runtime_checkable
class Store(Protocol):
    """What a vector store must provide."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have documents."""

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k]."""


class Hits(NamedTuple):
    """The results of a search, best first; all [q, k].

    Attributes:
      ids: objects.
      modality: names, as objects.
      score: float32, the raw cosine, plus the bias if `MixedIndex` has one. It is comparable within a modality only.
      z: float32, the standardized score without the prior. It is comparable across modalities.
    """

    ids: np.ndarray
    modality: np.ndarray
    score: np.ndarray
    z: np.ndarray


def best_scores(store: Store, queries: Vectors, exclude: Sequence[Collection[str]] | None = None) -> np.ndarray:
    """`pseudo_positives.top1_scores` of what a store finds: each query's best score of every modality.

    Args:
      exclude: for each query, the ids that it must not find, such as the document it was made from.

    Returns:
      float32 [q, m], in the order of `store.modalities`; -inf if a query has no candidate of a modality.

    Raises:
      ValueError: if `exclude` and the queries differ in number.
    """
    if exclude is None:
        exclude = [()] * len(queries)
    if len(exclude) != len(queries):
        raise ValueError(f"exclude: got {len(exclude)} collections of ids for {len(queries)} queries; give one each")
    most = max(map(len, exclude), default=0)
    columns = []
    for modality in store.modalities:
        ids, scores = store.topk(queries, min(1 + most, store.count(modality)), modality)
        allowed = np.array([[x not in hidden for x in line] for line, hidden in zip(ids, exclude, strict=True)])
        columns.append(np.max(scores, axis=1, initial=-np.inf, where=allowed))
    return np.stack(columns, axis=1)


@dataclasses.dataclass
class FitQueries:
    """Queries of one modality that statistics are fitted on, with their best score of every modality.

    Attributes:
      vectors: float32 [q, d], unit.
      exclude: for each query, the ids that it must not find.
      top1: modality -> float32 [q].
    """

    vectors: np.ndarray
    exclude: list[list[str]]
    top1: dict[str, np.ndarray]

    def see(self, store: Store) -> None:
        """Adds a store's documents: the best score over all is the larger of the old and the new best score."""
        scores = best_scores(store, self.vectors, self.exclude)
        for name, column in zip(store.modalities, scores.T, strict=True):
            self.top1[name] = np.maximum(self.top1.get(name, -np.inf), column)


def fit(
    store: Store,
    queries: Vectors,
    exclude: Sequence[Collection[str]] | None = None,
    *,
    query_modality: str = "text",
    model_id: str = "",
) -> ModalityStats:
    """Fits statistics of a store from unlabelled queries of one modality; see `statistics`.

    With an approximate store, they describe what the store finds, which is also what it will rank.
    """
    pools = [store.count(modality) for modality in store.modalities]
    stats = empty(store.modalities, pools, query_modalities=(query_modality,), model_id=model_id)
    return update(stats, best_scores(store, queries, exclude))


def search(
    store: Store,
    stats: ModalityStats,
    queries: Vectors,
    k: int,
    *,
    query_modality: str = "text",
    prior: Mapping[str, float | int] | None = None,
    per_modality_k: Mapping[str, int] | int | None = None,
) -> Hits:
    """The k best documents of all modalities by z = (cos - mean_m) / std_m + prior_m (method, eq. 13).

    A positive affine map keeps the order within a modality. Merging each modality's k best documents is therefore exact
    if the store is.

    Args:
      prior: added to z of a modality; 0.5 shows more of it, -0.5 shows less.
      per_modality_k: the largest number of results of each modality, or of the modalities named.

    Raises:
      ValueError: if a modality is unknown or was not fitted, or if there are fewer than k documents to choose from.
    """
    limits = candidates({name: store.count(name) for name in store.modalities}, k, per_modality_k)
    means, stds, priors = affine_maps(stats, tuple(limits), query_modality, prior)
    lists = [store.topk(queries, n, modality) for modality, n in limits.items()]
    z = [(scores - mean) / std for (_, scores), mean, std in zip(lists, means, stds, strict=True)]
    order = np.argsort(-np.concatenate([x + b for x, b in zip(z, priors, strict=True)], axis=1), axis=1, kind="stable")
    ids, scores = (np.concatenate(column, axis=1) for column in zip(*lists, strict=True))
    modality = np.repeat(np.array(list(limits), object), list(limits.values()))
    columns = (ids, np.broadcast_to(modality, ids.shape), scores, np.concatenate(z, axis=1))
    return Hits(*(np.take_along_axis(column, order[:, :k], axis=1) for column in columns))


def candidates(pools: Mapping[str, int], k: int, per_modality_k: Mapping[str, int] | int | None) -> dict[str, int]:
    """How many documents of each modality to ask for, so that the k best of all are among them."""
    if not isinstance(per_modality_k, Mapping):
        per_modality_k = {} if per_modality_k is None else dict.fromkeys(pools, per_modality_k)
    check_names("per_modality_k", per_modality_k, pools)
    for name, limit in per_modality_k.items():
        if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 0:
            raise ValueError(f"per_modality_k: got {limit!r} for {name}, expected a whole number, 0 or more")
    most = {name: min(per_modality_k.get(name, n), n) for name, n in pools.items()}
    check_k(k, sum(most.values()), "documents to choose from" if per_modality_k else "documents")
    return {name: min(k, n) for name, n in most.items() if n}


def affine_maps(
    stats: ModalityStats, modalities: Sequence[str], query_modality: str, prior: Mapping[str, float | int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, std and prior of each modality, float32 [m]; raises ValueError for a name that was not fitted.

    With one modality and queries that were not fitted they are 0 and 1: then z is the cosine, and there is nothing to
    be fair to.
    """
    prior = prior or {}
    if ranks_by_cosine(stats, modalities, query_modality):
        stats = empty(modalities, query_modalities=(query_modality,))
    check_names("prior", prior, stats.modalities)
    for name, offset in prior.items():
        if not np.isfinite(offset):
            raise ValueError(f"prior: got {offset} for {name}, expected a finite number such as 0.5")
    check_names("query_modality", [query_modality], stats.query_modalities)
    unfitted = [name for name in modalities if name not in stats.modalities]
    if unfitted:
        raise ValueError(
            f"there are no statistics of {', '.join(unfitted)}, only of {', '.join(stats.modalities)}; fit again"
        )
    row, columns = stats.query_modalities.index(query_modality), [stats.modalities.index(name) for name in modalities]
    mean, std = (np.asarray(x)[row, columns] for x in scale(stats))
    return mean, std, np.array([prior.get(name, 0.0) for name in modalities], np.float32)


def ranks_by_cosine(stats: ModalityStats, modalities: Sequence[str], query_modality: str) -> bool:
    """Whether queries of a modality have no scale and need none, since all documents are of one modality."""
    return len(modalities) == 1 and query_modality not in stats.query_modalities


def check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{what}: got the modality {unknown[0]!r}, expected one of {', '.join(known) or 'none yet'}")
