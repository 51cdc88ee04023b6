"""How biased a store is: each modality's share of the top k, its scale of scores, and the gap between modalities."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.search.checks import Vectors, check_k
from vacsr_jax.search.standardize.ranking import Hits, Store, best_scores, search
from vacsr_jax.search.standardize.statistics import ModalityStats, empty, scale


@runtime_checkable
class StoreOfVectors(Store, Protocol):
    """A store that can also return its vectors."""

    def vectors(self, modality: str) -> Iterable[np.ndarray]:
        """The unit vectors of a modality, in blocks [n, d]."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`; dicts are by modality.

    Attributes:
      documents: the number of documents.
      share_raw, share: the modality's share of the k best, by raw cosine and by standardized score.
      mean, std: mean and standard deviation of a query's best score, from the statistics; cosines.
      mean_error, std_error: their standard errors.
      gap: pair of modalities -> distance between the means of their unit vectors (Liang et al. 2022); at most 2.
      top1: the best raw score of each query [q], for the plot.
      k, queries: the length of the ranking and the number of queries.
    """

    documents: dict[str, int]
    share_raw: dict[str, float]
    share: dict[str, float]
    mean: dict[str, float]
    std: dict[str, float]
    mean_error: dict[str, float]
    std_error: dict[str, float]
    gap: dict[tuple[str, str], float]
    top1: dict[str, np.ndarray]
    k: int
    queries: int

    def rows(self) -> tuple[list[list], list[str]]:
        """The rows of a table, one for each modality, and its columns."""
        columns = ["modality", "documents", f"raw share of top {self.k}", "standardized", "mean", "std"]
        rows = [
            [
                name,
                self.documents[name],
                self.share_raw[name],
                self.share[name],
                (self.mean[name], self.mean_error[name]),
                (self.std[name], self.std_error[name]),
            ]
            for name in self.documents
        ]
        return rows, columns

    def figure(self) -> Any:
        """Draws both shares and each modality's best scores; a figure of matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        names, places = list(self.documents), np.arange(len(self.documents))
        for label, share, shift in (("raw cosine", self.share_raw, -0.2), ("standardized", self.share, 0.2)):
            left.bar(places + shift, [share[name] for name in names], 0.4, label=label)
        left.set(xticks=places, xticklabels=names, ylabel=f"share of the top {self.k}", ylim=(0, 1))
        left.legend(frameon=False)
        for name in names:
            right.hist(self.top1[name], bins=40, alpha=0.6, density=True, label=name)
        right.set(xlabel="best raw cosine of a query", ylabel="density")
        right.legend(frameon=False)
        figure.suptitle(f"{self.queries:,} queries over {sum(self.documents.values()):,} documents")
        return figure

    def plot(self, path: str | Path) -> None:
        """Writes `figure` to a file: png, svg or pdf, by its name."""
        path = Path(path)
        figure, kind = self.figure(), path.suffix[1:] or "png"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, lambda temporary: figure.savefig(temporary, format=kind))


def diagnose(
    store: StoreOfVectors,
    stats: ModalityStats,
    queries: Vectors,
    k: int,
    query_modality: str,
    exclude: Sequence[Collection[str]] | None = None,
) -> Diagnosis:
    """Computes shares of the top k, scales and gaps of a store, for queries of one modality; see `Diagnosis`.

    `exclude` holds for each query the ids that it must not find. A k above the number of documents takes all of them.

    Raises:
      ValueError: if k is below 1.
    """
    names = [name for name in stats.modalities if store.count(name)]
    total = sum(map(store.count, names))
    k = min(k, total)
    check_k(k, total, "documents")
    exclude = exclude if exclude is not None else [()] * len(queries)
    identity = empty(stats.modalities, query_modalities=stats.query_modalities)  # mean 0, std 1
    depth = min(k + max(map(len, exclude), default=0), total)
    raw, standardized = (
        shares(search(store, s, queries, depth, query_modality=query_modality), names, k, exclude)
        for s in (identity, stats)
    )
    row = stats.query_modalities.index(query_modality)
    columns = [stats.modalities.index(name) for name in names]
    numbers = (*scale(stats), stats.standard_error_mean, stats.standard_error_std)
    mean, std, mean_error, std_error = (
        dict(zip(names, np.asarray(x)[row, columns].tolist(), strict=True)) for x in numbers
    )
    centres = {name: centre(store, name) for name in names}
    top1 = dict(zip(store.modalities, best_scores(store, queries, exclude).T, strict=True))
    return Diagnosis(
        documents={name: store.count(name) for name in names},
        share_raw=raw,
        share=standardized,
        mean=mean,
        std=std,
        mean_error=mean_error,
        std_error=std_error,
        gap={(a, b): float(np.linalg.norm(centres[a] - centres[b])) for a, b in itertools.combinations(names, 2)},
        top1={name: top1[name][np.isfinite(top1[name])] for name in names},
        k=k,
        queries=len(queries),
    )


def shares(hits: Hits, names: list[str], k: int, exclude: Sequence[Collection[str]]) -> dict[str, float]:
    """Each modality's share of the k best documents that a query does not exclude."""
    found = []
    for ids, modality, hidden in zip(hits.ids, hits.modality, exclude, strict=True):
        found += [kind for x, kind in zip(ids, modality, strict=True) if x not in hidden][:k]
    return {name: found.count(name) / max(1, len(found)) for name in names}


def centre(store: StoreOfVectors, modality: str) -> np.ndarray:
    """The mean of a modality's unit vectors, float32 [d]."""
    blocks = store.vectors(modality)
    return np.asarray(sum(np.sum(block, axis=0, dtype=np.float32) for block in blocks) / store.count(modality))
