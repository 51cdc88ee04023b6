"""The index: documents of several modalities, exact search, one ranking that is fair to all of them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vacsr_jax.search import index_files, mixed
from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.diagnosis import Diagnosis, diagnose
from vacsr_jax.search.exact import ExactStore
from vacsr_jax.search.standardization import ModalityStats, aged, empty, from_dict, to_dict, update
from vacsr_jax.search.text_entropy import ImageBank

FEW_QUERIES = 200  # below these the spread of the statistics moves results


@dataclasses.dataclass
class MixedIndex:
    """Exact search over documents of several modalities, ranked by standardized similarity.

    ```
    index = MixedIndex()
    index.add(image_embeddings, image_ids, "image")
    index.add(text_embeddings, text_ids, "text")
    index.fit(query_embeddings)                       # unlabelled; 200 or more
    hits = index.search(query_embeddings[:1], k=20)   # ids, modality, score, z
    ```

    Embeddings may come from any model and have any length but zero. Documents added after the fit update the
    statistics: those are always what a new fit of the same queries would give.

    Attributes:
      model_id: what made the embeddings. Statistics and saved indices of another model are refused.
      devices: what the documents are shared out over; default: all of JAX's.
      stats: of the fit; None before it.
      contents: id -> what a document is, a text or a picture's file, where it was given; for showing results.
      about: notes that are saved with it.
      image_bank: gives texts their entropy's share when an image asks (`text_entropy`): their scores, and the
        statistics of image queries, are then those of cosine + w H / scale. Saved with the index.
    """

    model_id: str = ""
    devices: Sequence[jax.Device] | None = None
    stats: ModalityStats | None = None
    contents: dict[str, str] = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    fits: dict[str, mixed.FitQueries] = dataclasses.field(default_factory=dict)
    image_bank: ImageBank | None = None

    def __post_init__(self):
        named = self.image_bank.model_id if self.image_bank is not None else ""
        if named and self.model_id and named != self.model_id:
            raise ValueError(
                f"image_bank: of model {named!r}, the index is of {self.model_id!r}; fit a bank of its own"
            )
        self.store = ExactStore(self.devices, image_bank=self.image_bank)

    def __len__(self) -> int:
        return sum(map(self.store.count, self.store.modalities))

    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str | Names,
        contents: Names | None = None,
    ) -> None:
        """Adds documents: embeddings [n, d], ids [n], their modality (one name, or [n]), optionally contents [n].

        Only the new documents are compared with the fit queries.

        Raises:
          ValueError: see `ExactStore.add`; also if there are not n modalities or contents. Nothing is added then.
        """
        if isinstance(modality, str):
            modality = [modality] * len(embeddings)
        if len(modality) != len(embeddings) or (contents is not None and len(contents) != len(embeddings)):
            raise ValueError(f"modality, contents: expected {len(embeddings)}, as many as embeddings")
        new = ExactStore(self.devices, self.store.dim, self.image_bank)
        kinds = np.array(modality, object)
        ids = check_ids(ids, len(embeddings), self.store.all_ids)
        for name in dict.fromkeys(modality):
            mine = np.flatnonzero(kinds == name)
            new.add(np.asarray(embeddings)[mine], [ids[i] for i in mine], name)
        self.store.extend(new)
        if contents is not None:
            self.contents.update(zip(ids, contents, strict=True))
        for name, queries in self.fits.items():
            queries.see(new.seen_by(name))
        self._renew()

    def fit(
        self,
        queries: Vectors,
        query_modality: str = "text",
        exclude: Sequence[Collection[str]] | None = None,
    ) -> None:
        """Learns the scale of every modality from unlabelled queries [q, d] that resemble those to come.

        Queries of another modality (`query_modality="image"`) have a scale of their own; fit them as well if they come.

        Args:
          exclude: ids that are no candidates of a query, such as the document it was made from; a collection each.

        Raises:
          ValueError: if the index is empty, there are fewer than 2 queries, or one is not finite, zero or of
            another size.
        """
        vectors = check_embeddings(queries, self.store.dim, "queries")
        if len(self) == 0 or len(vectors) < 2:
            raise ValueError(
                f"fit: got {len(vectors)} queries over {len(self)} documents, expected documents, and 2 queries at "
                f"least; fewer than about {FEW_QUERIES} give a rough scale"
            )
        hidden = [list(map(str, ids)) for ids in exclude] if exclude is not None else [[] for _ in vectors]
        fitted = mixed.FitQueries(vectors, hidden, {})
        fitted.see(self.store.seen_by(query_modality))
        self.fits[query_modality] = fitted
        self._renew()

    def use(self, stats: ModalityStats) -> None:
        """Takes statistics fitted elsewhere, instead of queries; they age as the index grows, with a warning.

        With an image bank, those of image queries must be of scores with the same bias.

        Raises:
          ValueError: if they are of another model.
        """
        if stats.model_id != self.model_id:
            raise ValueError(f"statistics of model {stats.model_id!r}, index of {self.model_id!r}; fit its own queries")
        self.stats, self.fits = stats, {}
        self._warn_if_aged()

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        query_modality: str = "text",
        prior: Mapping[str, float | int] | None = None,
        per_modality_k: Mapping[str, int] | int | None = None,
    ) -> mixed.Hits:
        """The k best documents of queries [q, d] over all modalities; see `mixed.search`."""
        return mixed.search(
            self.store.seen_by(query_modality),
            self._fitted(),
            queries,
            k,
            query_modality=query_modality,
            prior=prior,
            per_modality_k=per_modality_k,
        )

    def diagnose(self, queries: Vectors | None = None, k: int = 20, query_modality: str = "text") -> Diagnosis:
        """How biased the index is, before and after; over the fit queries unless others are given."""
        stats, exclude = self._fitted(), None
        if queries is None:
            if query_modality not in self.fits:
                raise ValueError(f"diagnose: no {query_modality} queries were fitted; give some")
            queries, exclude = self.fits[query_modality].vectors, self.fits[query_modality].exclude
        store = self.store.seen_by(query_modality)
        return diagnose(store, stats, queries, min(k, len(self)), query_modality, exclude)

    def save(self, folder: str | Path) -> None:
        """Writes the index into a folder (safetensors and JSON), all at once: a failure leaves the old one.

        Raises:
          ValueError: if the folder holds something that is no index.
        """
        header = {
            "model_id": self.model_id,
            "about": self.about,
            "stats": to_dict(self.stats) if self.stats is not None else None,
        }
        index_files.write(Path(folder), header, self.store, self.contents, self.fits)

    @classmethod
    def load(
        cls, folder: str | Path, *, model_id: str | None = None, devices: Sequence[jax.Device] | None = None
    ) -> MixedIndex:
        """The index that `save` wrote; on other devices if need be.

        Args:
          model_id: what will embed the queries; None does not ask.

        Raises:
          ValueError: if the index is of another model, or what is there is no whole index.
        """
        header, store, contents, fits = index_files.read(Path(folder), devices)
        if model_id is not None and model_id != header["model_id"]:
            raise ValueError(
                f"{folder}: index of model {header['model_id']!r}, asked for {model_id!r}; embeddings of two models do "
                "not compare; load that model, or build the index again"
            )
        stats = from_dict(header["stats"]) if header["stats"] is not None else None
        index = cls(header["model_id"], devices, stats, contents, header["about"], fits, store.image_bank)
        index.store = store
        index._warn_if_aged()
        return index

    def _fitted(self) -> ModalityStats:
        if self.stats is None:
            raise ValueError(
                f"no statistics yet; call fit(queries) with {FEW_QUERIES} queries or more, no labels needed"
            )
        return self.stats

    def _renew(self) -> None:
        """The statistics of the fit queries' scores, which cost nothing to take again."""
        if not self.fits:
            return self._warn_if_aged()
        names = self.store.modalities
        pools = [self.store.count(name) for name in names]
        stats = empty(names, pools, query_modalities=tuple(self.fits), model_id=self.model_id)
        for row, queries in enumerate(self.fits.values()):
            stats = update(stats, np.stack([queries.top1[name] for name in names], axis=1), row)
        self.stats = stats

    def _warn_if_aged(self) -> None:
        if self.stats is None:
            return
        old = aged(self.stats, [self.store.count(name) for name in self.stats.modalities])
        grown = ", ".join(f"{name} {then:,} -> {now:,}" for name, (then, now) in old.items() if then != now)
        if grown:
            warnings.warn(
                f"the statistics have aged, since pools changed twofold or more ({grown}); fit again", stacklevel=3
            )
