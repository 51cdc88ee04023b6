"""FAISS as a store: one FAISS index for each modality, exact or approximate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids, check_k
from vacsr_jax.search.filters import NOTHING, Fields, Where, check_metadata, matcher

SAMPLE = 64  # vectors of an adopted index that are looked at
UNIT = 0.1  # how far from 1 their middle length may be: quantized vectors are a little off


class FaissStore:
    """Documents in FAISS indexes that `make_index(dim)` builds; by default `IndexFlatIP`, which is exact, in float32.

    `adopt` takes an index that already exists. `indexes` has the index of each modality. Raises ImportError, with the
    command that installs it, where FAISS is not installed.
    """

    def __init__(self, make_index: Callable[[int], Any] | None = None):
        try:
            import faiss
        except ImportError as error:
            raise ImportError('FAISS is not installed; pip install "vacsr_jax[search]"') from error
        self._faiss = faiss
        self._make = make_index or faiss.IndexFlatIP
        self.indexes: dict[str, Any] = {}
        self._ids: dict[str, dict[int, str]] = {}  # modality -> FAISS's label of a vector -> the document's id
        self._own_labels: dict[str, bool] = {}  # modality -> whether the index has labels of its own (IndexIDMap)
        self._all_ids: set[str] = set()
        self.metadata: dict[str, Fields] = {}  # id -> what `filtered` reads
        self._kept: dict[str, np.ndarray] | None = None  # modality -> labels, in the view that `filtered` gives

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in self.indexes if self._kept is None or len(self._kept[name]))

    def count(self, modality: str) -> int:
        """The number of documents of a modality."""
        if self._kept is not None:
            return len(self._kept.get(modality, ()))
        return self.indexes[modality].ntotal if modality in self.indexes else 0

    def filtered(self, where: Where) -> FaissStore:
        """The same documents but for those that a filter leaves out, by the metadata that `add` and `metadata` got."""
        passes = matcher(where)
        view = copy.copy(self)
        view._kept = {
            name: np.array([label for label, x in ids.items() if passes(self.metadata.get(x, NOTHING))], np.int64)
            for name, ids in self._ids.items()
        }
        return view

    def adopt(self, index: Any, ids: Names | Mapping, modality: str) -> None:
        """Takes an index of unit vectors.

        Args:
          ids: of the documents, in the order in which they were added; also for an `IndexIDMap`, whose labels are
            read. Or a dict of FAISS's label -> id, which an inverted file (IVF) with labels of its own needs.

        Raises:
          ValueError: if its metric is not the inner product, if ids are too few, too many or occur twice, if its labels
            are not known, or if a sample of its vectors is not of unit length or is not found under its own label.
        """
        if not isinstance(index, self._faiss.Index):
            raise ValueError(f"FAISS index: got {type(index).__name__}, expected an index of float vectors")
        if index.metric_type != self._faiss.METRIC_INNER_PRODUCT:
            raise ValueError(
                "FAISS index: expected the metric METRIC_INNER_PRODUCT; build it with that metric, of unit vectors"
            )
        if modality in self.indexes:
            raise ValueError(f"modality: there is already an index of {modality!r}; add to it")
        labels, in_order = self._labels(index)
        names = check_ids(list(ids.values()) if isinstance(ids, Mapping) else ids, index.ntotal, self._all_ids)
        if isinstance(ids, Mapping):
            labelled = dict(zip(map(int, ids), names, strict=True))
            strange = next((int(x) for x in labels if int(x) not in labelled), None)
            if strange is not None:
                raise ValueError(f"ids: the index has a vector of label {strange}, which is not among the ids")
        elif not in_order:
            raise ValueError(
                "ids: the index has labels of its own and does not keep the order in which they were added; give a "
                "dict of label -> id"
            )
        else:
            labelled = dict(zip(map(int, labels), names, strict=True))
        if len(labelled) != index.ntotal:
            raise ValueError("FAISS index: several vectors have one label, so a result could mean any of them")
        self._check_sample(index, labels)
        self._all_ids.update(names)
        self._ids[modality] = labelled
        self._own_labels[modality] = not np.array_equal(labels, np.arange(index.ntotal)) or self._maps_ids(index)
        self.indexes[modality] = index

    def add(
        self, embeddings: Vectors, ids: Names, modality: str, metadata: Sequence[Fields | None] | None = None
    ) -> None:
        """Adds documents of one modality, with embeddings [n, d] of any length but zero, and values to filter by.

        An index that is not trained is trained on them.

        Raises:
          ValueError: if `checks` refuses an embedding or id, or FAISS may number the documents in another order.
        """
        index = self.indexes.get(modality)
        vectors = check_embeddings(embeddings, index.d if index is not None else None, "embeddings")
        ids = check_ids(ids, len(vectors), self._all_ids)
        fields = check_metadata(metadata, len(ids))
        if index is None:
            index = self._make(vectors.shape[1])
            self.adopt(index, [], modality)
        if isinstance(index, self._faiss.IndexShards):
            raise ValueError("FAISS: IndexShards renumbers documents at each add; add to it with FAISS, then adopt it")
        if not index.is_trained:
            index.train(vectors)
        known = self._ids[modality]
        labels = np.arange(len(vectors), dtype=np.int64) + max(known, default=-1) + 1
        if self._own_labels[modality]:
            index.add_with_ids(vectors, labels)
        else:
            index.add(vectors)
        known.update(zip(labels.tolist(), ids, strict=True))
        self._all_ids.update(ids)
        self.metadata.update((x, mine) for x, mine in zip(ids, fields, strict=True) if mine)

    def topk(self, queries: Vectors, k: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """The k documents of a modality nearest to queries [q, d], best first: ids and float32 cosines, both [q, k].

        Raises:
          ValueError: if a query is zero, not finite or of another dimension, if the index has, or finds, fewer than
            k documents, or if documents were added to it or removed from it but not by this store.
        """
        check_k(k, self.count(modality), f"{modality} documents")
        index, ids = self.indexes[modality], self._ids[modality]
        if index.ntotal != len(ids):
            raise ValueError(f"FAISS has {index.ntotal} {modality} vectors for {len(ids)} ids; adopt the index again")
        only = {} if self._kept is None else {"params": self._selecting(index, self._kept[modality])}
        scores, labels = index.search(check_embeddings(queries, index.d, "queries"), int(k), **only)
        if (labels < 0).any():
            raise ValueError(
                f"FAISS found fewer than {k} {modality} documents; raise its nprobe or efSearch, or lower k"
            )
        return np.array([[self._id(ids, label) for label in line] for line in labels.tolist()], object), scores

    def _selecting(self, index: Any, labels: np.ndarray) -> Any:
        """What makes a search see some labels only, with the index's own settings."""
        faiss, index, select = self._faiss, self._faiss.downcast_index(index), self._faiss.IDSelectorBatch(labels)
        while isinstance(index, faiss.IndexIDMap):
            index = faiss.downcast_index(index.index)
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=select, nprobe=index.nprobe)
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=select, efSearch=index.hnsw.efSearch)
        if isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer):
            return faiss.SearchParameters(sel=select)
        raise ValueError(
            f"where: {type(index).__name__} of FAISS cannot leave documents out; use a flat, IVF or HNSW index"
        )

    def _id(self, ids: dict[int, str], label: int) -> str:
        if label not in ids:
            raise ValueError(f"FAISS found the label {label}, which has no id; adopt the index again")
        return ids[label]

    def _maps_ids(self, index: Any) -> bool:
        """Whether an index refuses vectors without labels: `IndexIDMap`, also inside another one."""
        index = self._faiss.downcast_index(index)
        if isinstance(index, self._faiss.IndexPreTransform):
            return self._maps_ids(index.index)
        return isinstance(index, self._faiss.IndexIDMap)

    def _labels(self, index: Any) -> tuple[np.ndarray, bool]:
        """The labels that a search may return, and whether they are in the order of adding, if FAISS keeps it."""
        faiss, index = self._faiss, self._faiss.downcast_index(index)
        if isinstance(index, faiss.IndexIDMap):
            return faiss.vector_to_array(index.id_map), True
        if isinstance(index, faiss.IndexPreTransform):
            return self._labels(index.index)
        if isinstance(index, faiss.IndexRefine):
            return self._labels(index.base_index)
        if isinstance(index, faiss.IndexReplicas):
            return self._labels(index.at(0)) if index.count() else (np.arange(0), True)
        if isinstance(index, faiss.IndexShards) and not index.successive_ids:
            parts = [self._labels(index.at(i))[0] for i in range(index.count())]
            return np.concatenate([np.zeros(0, np.int64), *parts]), False
        if isinstance(index, faiss.IndexIVF):
            lists = index.invlists
            parts = [
                faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
                for i in range(lists.nlist)
                if lists.list_size(i)
            ]
            found = np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
            return found, np.array_equal(found, np.arange(len(found)))
        return np.arange(index.ntotal), True

    def _check_sample(self, index: Any, labels: np.ndarray) -> None:
        """Raises ValueError if a sample of an index's vectors has not unit length, or is not found as what it is."""
        at = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), SAMPLE)).astype(int))
        vectors = [x for x in (self._vector(index, int(i), int(labels[i])) for i in at) if x is not None]
        if not vectors:
            return  # FAISS cannot give the vectors of this type back
        lengths = np.linalg.norm(vectors, axis=1)
        if abs(np.median(lengths) - 1) > UNIT:
            raise ValueError(
                f"FAISS index: its vectors have lengths of {lengths.min():.3g} to {lengths.max():.3g}, expected 1: "
                "inner products are cosines only then; divide them by their lengths before they are added"
            )
        unknown = np.setdiff1d(index.search(np.array(vectors, np.float32), 1)[1], [*labels, -1])
        if len(unknown):
            raise ValueError(f"FAISS index: it finds the label {unknown[0]}, which none of its documents has")

    def _vector(self, index: Any, number: int, label: int) -> np.ndarray | None:
        # One at a time: `reconstruct_n` ends the process where a type does not have it.
        faiss, index = self._faiss, self._faiss.downcast_index(index)
        try:
            if isinstance(index, faiss.IndexIDMap):
                return self._vector(index.index, number, number)
            if isinstance(index, faiss.IndexPreTransform):
                return None  # the length before the transformation is lost
            return index.reconstruct(label)
        except RuntimeError:
            return None
