"""The index: exact search over documents of several modalities, in one ranking that is fair to all of them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.filters import Fields, Where, check_metadata
from vacsr_jax.search.index import codes, files
from vacsr_jax.search.index.exact import ExactStore
from vacsr_jax.search.standardize import ranking
from vacsr_jax.search.standardize.diagnosis import Diagnosis, diagnose
from vacsr_jax.search.standardize.statistics import (
    FEW_QUERIES,
    ModalityStats,
    aged,
    empty,
    from_dict,
    to_dict,
    update,
)
from vacsr_jax.search.stores.base import Known
from vacsr_jax.search.text_entropy import ReferenceImages


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
    statistics, which always equal those of a new fit of the same queries.

    Attributes:
      model_id: the model that made the embeddings. Statistics and saved indexes of another model are refused.
      devices: the devices to split the documents over; by default all that JAX has.
      stats: the statistics of `fit` or `use`; None before.
      contents: id -> the text, or the file of the picture, where it was given; for showing results.
      about: notes that are saved with the index.
      reference_images: they add the share of its entropy to a text when an image asks (`text_entropy`). The scores of
        texts, and the statistics of image queries, are then those of cosine + w H / scale. Saved with the index.
      store: the documents' vectors: an `ExactStore`, unless `StoredIndex` has them in a database.
    """

    model_id: str = ""
    devices: Sequence[jax.Device] | None = None
    stats: ModalityStats | None = None
    contents: Any = dataclasses.field(default_factory=dict)  # a mapping of texts
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    fits: dict[str, ranking.FitQueries] = dataclasses.field(default_factory=dict)
    reference_images: ReferenceImages | None = None
    store: Any = None

    def __post_init__(self):
        named = self.reference_images.model_id if self.reference_images is not None else ""
        if named and self.model_id and named != self.model_id:
            raise ValueError(
                f"reference_images: of model {named!r}, the index is of {self.model_id!r}; run `vacsr entropy fit` "
                "with embeddings of this model"
            )
        if self.store is None:
            self.store = ExactStore(self.devices, reference_images=self.reference_images)

    def __len__(self) -> int:
        return sum(map(self.store.count, self.store.modalities))

    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str | Names,
        contents: Names | None = None,
        metadata: Sequence[Fields | None] | None = None,
    ) -> None:
        """Adds documents: embeddings [n, d], ids [n], modality (one name, or [n]), and optionally contents [n].

        Only the new documents are compared with the fit queries.

        Args:
          metadata: [n], a mapping of names to plain values for each document, which `search(where=...)` reads.

        Raises:
          ValueError: as `ExactStore.add`, or if there are not n modalities, contents or metadata. Nothing is added
            then.
        """
        kinds = self._modality_of_each(modality, contents, len(embeddings))
        ids = check_ids(ids, len(embeddings), self.store.all_ids)
        fields = check_metadata(metadata, len(ids))
        new = self._new_store(embeddings, ids, kinds)
        self.store.extend(new)
        self.store.metadata.update((x, mine) for x, mine in zip(ids, fields, strict=True) if mine)
        if contents is not None:
            self.contents.update(zip(ids, contents, strict=True))
        self._see(new)

    def _modality_of_each(self, modality: str | Names, contents: Names | None, n: int) -> list[str]:
        """The modality of each of n documents."""
        kinds = [modality] * n if isinstance(modality, str) else list(modality)
        if len(kinds) != n or (contents is not None and len(contents) != n):
            raise ValueError(f"modality, contents: expected {n} each, one for each embedding")
        return kinds

    def _new_store(self, embeddings: Vectors, ids: list[str], kinds: list[str]) -> ExactStore:
        """New documents by themselves."""
        new = ExactStore(self.devices, self.store.dim, self.reference_images)
        for name in dict.fromkeys(kinds):
            mine = np.flatnonzero(np.array(kinds, object) == name)
            new.add(np.asarray(embeddings)[mine], [ids[i] for i in mine], name)
        return new

    def _see(self, new: ExactStore) -> None:
        """Takes new documents into the statistics."""
        for name, queries in self.fits.items():
            queries.see(new.seen_by(name))
        self._renew()

    def fit(
        self,
        queries: Vectors,
        query_modality: str = "text",
        exclude: Sequence[Collection[str]] | None = None,
    ) -> None:
        """Learns the scale of every modality from unlabelled queries [q, d] that resemble the queries to come.

        Queries of another modality (`query_modality="image"`) have their own scale; fit them too if they will be asked.

        Args:
          exclude: for each query, the ids that are no candidates, such as the document it was made from.

        Raises:
          ValueError: if the index is empty, if there are fewer than 2 queries, or if a query is zero, not finite or of
            another dimension.
        """
        vectors = check_embeddings(queries, self.store.dim, "queries")
        if len(self) == 0 or len(vectors) < 2:
            raise ValueError(
                f"fit: got {len(vectors)} queries over {len(self)} documents, expected documents, and at "
                f"least 2 queries; fewer than about {FEW_QUERIES} give a rough scale"
            )
        hidden = [list(map(str, ids)) for ids in exclude] if exclude is not None else [[] for _ in vectors]
        fitted = ranking.FitQueries(vectors, hidden, {})
        fitted.see(self._asked_by(query_modality))
        self.fits[query_modality] = fitted
        self._renew()

    def use(self, stats: ModalityStats) -> None:
        """Takes statistics fitted elsewhere instead of queries. They age as the index grows, with a warning.

        With reference images, the statistics of image queries must be of scores with the same bias.

        Raises:
          ValueError: if they are of another model.
        """
        if stats.model_id != self.model_id:
            raise ValueError(
                f"statistics of model {stats.model_id!r}, index of {self.model_id!r}; fit queries of this model"
            )
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
        where: Where | None = None,
    ) -> ranking.Hits:
        """The k best documents of queries [q, d] over all modalities; see `ranking.search`.

        Documents of one modality alone are ranked by cosine if these queries were not fitted, or none were: z is then
        the cosine.

        Args:
          where: what the metadata of a document must be, such as {"source": "web", "year": [2023, 2024]}
            (`search.filters`). The scale stays that of all documents.
        """
        store = self._asked_by(query_modality)
        return ranking.search(
            store.filtered(where) if where is not None else store,
            self._scale(),
            queries,
            k,
            query_modality=query_modality,
            prior=prior,
            per_modality_k=per_modality_k,
        )

    def counts(self, where: Where | None = None) -> dict[str, int]:
        """The number of documents of each modality whose metadata are as `where` says; see `search`."""
        store = self.store.filtered(where) if where is not None else self.store
        return {name: store.count(name) for name in store.modalities}

    def diagnose(self, queries: Vectors | None = None, k: int = 20, query_modality: str = "text") -> Diagnosis:
        """How biased the index is before and after standardization, over the fit queries unless others are given."""
        stats, exclude = self._fitted(), None
        if queries is None:
            if query_modality not in self.fits:
                raise ValueError(f"diagnose: no {query_modality} queries were fitted; give queries")
            queries, exclude = self.fits[query_modality].vectors, self.fits[query_modality].exclude
        store = self._asked_by(query_modality)
        return diagnose(store, stats, queries, k, query_modality, exclude)

    def save(self, folder: str | Path) -> None:
        """Writes the index to a folder (safetensors and JSON), whole or not at all: a failure leaves the old one.

        Raises:
          ValueError: if the folder holds something that is not an index.
        """
        header = {
            "model_id": self.model_id,
            "about": self.about,
            "stats": to_dict(self.stats) if self.stats is not None else None,
        }
        files.write(Path(folder), header, self.store, self.contents, self.fits)

    @classmethod
    def load(
        cls, folder: str | Path, *, model_id: str | None = None, devices: Sequence[jax.Device] | None = None
    ) -> MixedIndex:
        """The index that `save` wrote, on the same or on other devices; a `StoredIndex` if a database has the vectors.

        Args:
          model_id: the model that will embed the queries; None skips the comparison.

        Raises:
          ValueError: if the index is of another model, or is not complete.
        """
        if files.is_stored(Path(folder)):
            from vacsr_jax.search.index.stored import StoredIndex

            return StoredIndex.load(folder, model_id=model_id, devices=devices)
        header, store, contents, fits = files.read(Path(folder), devices)
        check_model(folder, header["model_id"], model_id)
        stats = from_dict(header["stats"]) if header["stats"] is not None else None
        index = cls(header["model_id"], devices, stats, contents, header["about"], fits, store.reference_images, store)
        index._warn_if_aged()
        return index

    def close(self) -> None:
        """Ends the connection to a database, if the vectors are in one."""

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of the documents with these ids, as far as they are there."""
        asked = set(ids)
        return {
            x: Known(name, self.contents.get(x))
            for name in self.store.modalities
            for x in self.store.ids(name)
            if x in asked
        }

    def vectors_of(self, ids: Sequence[str], modality: str) -> np.ndarray:
        """The unit vectors float32 [n, d] of documents of a modality, in the order of their ids."""
        return self.store.vectors_of(ids, modality)

    def own_documents(self, modality: str, at_most: int) -> tuple[list[str], np.ndarray]:
        """Ids and vectors float32 [n, d] of documents of a modality, from all over the index."""
        ids = self.store.ids(modality)
        chosen = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), at_most)).astype(int))
        vectors, start = [], 0
        for block in self.store.codes(modality):  # in float32 all of them may not fit into memory
            vectors.append(codes.decode(block[chosen[(chosen >= start) & (chosen < start + len(block))] - start]))
            start += len(block)
        return [ids[i] for i in chosen], np.concatenate(vectors)

    def ranks_by_cosine(self, query_modality: str) -> bool:
        """Whether `search` ranks by cosine: all documents are of one modality, and there are no such fit queries."""
        names = self.store.modalities
        return len(names) == 1 and (self.stats is None or ranking.ranks_by_cosine(self.stats, names, query_modality))

    def _asked_by(self, query_modality: str) -> Any:
        """The store as queries of a modality see it."""
        return self.store.seen_by(query_modality)

    def _scale(self) -> ModalityStats:
        if self.stats is None and len(self.store.modalities) == 1:
            return empty(self.store.modalities)  # without a score: mean 0 and std 1
        return self._fitted()

    def _fitted(self) -> ModalityStats:
        if self.stats is None:
            raise ValueError(f"no statistics yet; call fit(queries) with {FEW_QUERIES} unlabelled queries or more")
        return self.stats

    def _renew(self) -> None:
        """Takes the statistics of the fit queries' scores again, which costs next to nothing."""
        if not self.fits:
            return self._warn_if_aged()
        names = [x for x in self.store.modalities if all(x in queries.top1 for queries in self.fits.values())]
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
                f"the statistics are out of date, as the number of documents doubled or halved ({grown}); fit again",
                stacklevel=3,
            )


def check_model(folder: str | Path, made_with: str, model_id: str | None) -> None:
    """Raises ValueError if an index is of another model than the one asked for, if one is."""
    if model_id is not None and model_id != made_with:
        raise ValueError(
            f"{folder}: index of model {made_with!r}, asked for {model_id!r}; embeddings of two models "
            "cannot be compared; load that model, or build the index again"
        )
