"""The index whose documents are in a database: LanceDB, Milvus or Qdrant. Its folder holds the statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vacsr_jax.atomic_files import read_json, to_json, write_text
from vacsr_jax.data.embeddings import read_embeddings, write_embeddings
from vacsr_jax.search.checks import Names, Vectors, check_ids
from vacsr_jax.search.filters import Fields, Where, check_metadata
from vacsr_jax.search.index import files
from vacsr_jax.search.index.mixed import MixedIndex, check_model
from vacsr_jax.search.index.sample import Sample
from vacsr_jax.search.standardize import ranking
from vacsr_jax.search.standardize.statistics import from_dict, to_dict
from vacsr_jax.search.stores.address import Address, open_store, read_address
from vacsr_jax.search.stores.base import DocumentStore, Known

SAMPLE_FILE = "sample.npz"
PROBES = 4  # documents of a modality that are looked at when an index is opened
SAME = 0.99  # cosine of a vector with what the database gives back, which may be quantized
REMEMBERED = 10_000  # documents whose content is kept


class Contents(Mapping[str, str]):
    """id -> content, looked up in the database. What a search has found is looked up in one request."""

    def __init__(self, store: DocumentStore):
        self._store = store
        self._expected: list[str] = []
        self._found: dict[str, str | None] = {}

    def expect(self, ids: Sequence[str]) -> None:
        self._expected = list(ids)

    def __getitem__(self, x: str) -> str:
        found = self._found
        if x not in found:
            asked = dict.fromkeys([x, *(y for y in self._expected if y not in found)])
            known = self._store.known(list(asked))
            before = found if len(found) < REMEMBERED else {}
            found = before | {y: known[y].content if y in known else None for y in asked}
            self._found = found
        value = found[x]
        if value is None:
            raise KeyError(x)
        return value

    def __iter__(self) -> Iterator[str]:
        """The documents that were looked up so far."""
        return (x for x, value in self._found.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclasses.dataclass
class StoredIndex(MixedIndex):
    """A `MixedIndex` whose vectors, contents and metadata are in a database.

    ```
    index = StoredIndex.begin("my_index", "qdrant:http://localhost:6333#documents")
    index.add(image_embeddings, image_ids, "image")
    index.add(text_embeddings, text_ids, "text")
    index.fit(query_embeddings)
    index.save("my_index")
    MixedIndex.load("my_index").search(query_embeddings, k=20)
    ```

    The database searches, filters, and, if it is Qdrant, standardizes and merges. A document whose id is there already
    is replaced; its old score stays in the statistics until the next fit.

    Attributes:
      address: where the documents are.
      owned: whether this index made the collection, and may remove it.
      sample: a few documents, which stand in for queries, and show that a collection is the one of this index.
    """

    address: Address | None = None
    owned: bool = True
    sample: Sample = dataclasses.field(default_factory=Sample)
    filling: Path | None = None  # the file that says so, until `save`
    replaces: str = ""  # the collection that `save` removes

    def __post_init__(self):
        if self.reference_images is not None:
            raise ValueError("reference_images: they need the index of this library; leave the store out")
        self.contents = Contents(self.store)

    @classmethod
    def begin(cls, folder: str | Path, address: str, model_id: str = "") -> StoredIndex:
        """An empty index, whose documents go into a new collection; `save` puts it into the place of an old one.

        If the folder is an index in the collection of this address, the collection NAME_2 is filled, or NAME from
        NAME_2, and the old one serves until `save`. Documents of a run that was killed are removed.

        Raises:
          ValueError: if the collection exists and is not of this folder's index, or the folder is something else.
          OSError: if the database does not answer.
        """
        folder, target, old = Path(folder), read_address(address), None
        files.refuse_other_folder(folder)
        if files.is_stored(folder):
            header = read_header(folder)
            old = read_address(header["store"])
            if old == target:
                target = target._replace(collection=f"{target.collection}_2")
            old = old if header["owned"] and old.place == target.place else None
        if target.is_local:
            Path(target.place).parent.mkdir(parents=True, exist_ok=True)
        store, mark = open_store(target), marker(folder)
        if store.dim is not None:
            if not mark.exists() or mark.read_text(encoding="utf-8") != str(target):
                store.close()
                raise ValueError(
                    f"--store: {target} exists and is not of the index {folder}; name another collection with #NAME, "
                    "remove it, or leave the documents out to index those that are there"
                )
            store.drop()
        replaced = old.collection if old is not None else ""
        return cls(model_id, store=store, address=target, filling=mark, replaces=replaced)

    @classmethod
    def of_existing(cls, address: str, model_id: str = "") -> StoredIndex:
        """An index of the documents of a collection that exists, which is not changed; fit it with queries."""
        target = read_address(address)
        store = open_existing(target)
        return cls(model_id, store=store, address=target, owned=False)

    @classmethod
    def load(
        cls, folder: str | Path, *, model_id: str | None = None, devices: Sequence[jax.Device] | None = None
    ) -> StoredIndex:
        """The index that `save` wrote; see `MixedIndex.load`.

        Raises:
          ValueError: if the collection is not there, or is not the one of this index.
          OSError: if the database does not answer.
        """
        folder = Path(folder)
        header = read_header(folder)
        check_model(folder, header["model_id"], model_id)
        try:
            stats = from_dict(header["stats"]) if header["stats"] is not None else None
            fits = files.read_fits(folder, header["stats"]["modalities"] if stats else [])
            sample = read_sample(folder / SAMPLE_FILE)
        except Exception as error:  # damaged files raise many types
            raise ValueError(f"{folder}: the index cannot be read ({error}); build it again") from error
        address = read_address(header["store"])
        store = open_existing(address)
        try:
            check_same(store, header["dim"], sample, f"{folder}: the index is of {address}")
        except (ValueError, OSError):
            store.close()
            raise
        index = cls(
            header["model_id"], devices, stats, {}, header["about"], fits, None, store, address, header["owned"], sample
        )
        if not (address.is_local and address.kind == "milvus"):  # which reads all documents to count them
            index._warn_if_aged()
        return index

    def __len__(self) -> int:
        """The number of documents, as of the statistics if there are any: some databases count slowly."""
        return sum(self.stats.pool_sizes) if self.stats is not None else super().__len__()

    def add(
        self,
        embeddings: Vectors,
        ids: Names,
        modality: str | Names,
        contents: Names | None = None,
        metadata: Sequence[Fields | None] | None = None,
    ) -> None:
        """Adds documents, or replaces those with the same ids; see `MixedIndex.add`."""
        kinds = self._modality_of_each(modality, contents, len(embeddings))
        ids, fields = check_ids(ids, len(embeddings), ()), check_metadata(metadata, len(embeddings))
        texts = list(contents) if contents is not None else [None] * len(ids)
        new = self._new_store(embeddings, ids, kinds)
        vectors = np.asarray(embeddings)
        if self.filling is not None:
            write_text(self.filling, str(self.address))
        for name in new.modalities:
            mine = [i for i, kind in enumerate(kinds) if kind == name]
            names = [ids[i] for i in mine]
            self.store.add(vectors[mine], names, name, [texts[i] for i in mine], [fields[i] for i in mine])
            self.sample.see(np.concatenate(list(new.vectors(name))), names, name)
        self._see(new)

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
        """See `MixedIndex.search`. `where` may also be in the language of the database."""
        store = self.store.filtered(where) if where is not None else self.store
        options: dict[str, Any] = {"query_modality": query_modality, "prior": prior, "per_modality_k": per_modality_k}
        hits = store.search(self._scale(), queries, k, **options)
        self.contents.expect(hits.ids.ravel().tolist())
        return hits

    def save(self, folder: str | Path) -> None:
        """Writes the folder, whole or not at all, once the database has the documents; see `MixedIndex.save`."""
        self.store.settle()
        files.write_whole(Path(folder), self._write)
        if self.filling is not None:
            self.filling.unlink(missing_ok=True)
        if self.replaces:
            self.store.drop(self.replaces)
        self.filling, self.replaces = None, ""

    def _write(self, folder: Path) -> None:
        ids = [x for kept in self.sample.of.values() for x in kept]
        if ids:
            write_embeddings(
                folder / SAMPLE_FILE,
                embeddings=np.stack([vector for kept in self.sample.of.values() for vector in kept.values()]),
                ids=np.array(ids),
                modality=np.array([name for name, kept in self.sample.of.items() for _ in kept]),
                model_id=np.array(self.model_id),
            )
        files.write_fits(folder, self.fits)
        header = {
            "format": files.STORED,
            "model_id": self.model_id,
            "about": self.about,
            "stats": to_dict(self.stats) if self.stats is not None else None,
            "store": str(self.address),
            "owned": self.owned,
            "dim": self.store.dim,
        }
        (folder / files.HEADER).write_text(to_json(header), encoding="utf-8")

    def close(self) -> None:
        self.store.close()

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        return self.store.known(ids)

    def vectors_of(self, ids: Sequence[str], modality: str) -> np.ndarray:
        found = self.store.vectors(ids)
        return np.stack([found[x] for x in ids])

    def own_documents(self, modality: str, at_most: int) -> tuple[list[str], np.ndarray]:
        """Those of the sample; none of a collection that others filled."""
        kept = dict(list(self.sample.of.get(modality, {}).items())[:at_most])
        return list(kept), np.array(list(kept.values()), np.float32).reshape(len(kept), self.store.dim)

    def _asked_by(self, query_modality: str) -> Any:
        return self.store


def marker(folder: Path) -> Path:
    """The file that names the collection which is being filled, so that a run after a killed one may remove it."""
    return folder.with_name(f"{folder.name}.filling")


def read_header(folder: Path) -> dict[str, Any]:
    try:
        header = read_json(folder / files.HEADER)
        files.check_fields(header, ("model_id", "stats", "about", "store", "owned", "dim"))
        return header
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}: the index cannot be read ({error}); build it again") from error


def read_sample(path: Path) -> Sample:
    sample = Sample()
    if path.exists():
        found = read_embeddings(path)
        for x, name, vector in zip(found.ids.tolist(), found.modality.tolist(), found.vectors, strict=True):
            sample.of.setdefault(name, {})[x] = vector
    return sample


def open_existing(address: Address) -> DocumentStore:
    """The store at an address; raises ValueError if there is no collection."""
    if address.is_local and not Path(address.place).exists():
        raise ValueError(f"--store: {address.place} is not there")
    store = open_store(address)
    if store.dim is None:
        store.close()
        raise ValueError(f"--store: {address.place} has no collection {address.collection!r}")
    return store


def check_same(store: DocumentStore, dim: int, sample: Sample, where: str) -> None:
    """Raises ValueError if a store has vectors of another size, or not the documents of a sample."""
    if store.dim != dim:
        raise ValueError(f"{where}, whose vectors have {store.dim} numbers, expected {dim}; it is of another index")
    for name, kept in sample.of.items():
        probes = dict(list(kept.items())[:PROBES])
        found = store.vectors(list(probes))
        if not found:
            raise ValueError(f"{where}, which has no {name} {next(iter(probes))!r}; it is of another index")
        strange = next((x for x, vector in found.items() if vector @ probes[x] < SAME), None)
        if strange is not None:
            raise ValueError(f"{where}, where {strange!r} has another vector; it is of another index, or another model")
