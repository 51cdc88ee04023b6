"""Stores by their addresses: `lance:PATH`, `milvus:URI`, `qdrant:URL`, each with `#NAME` for a collection."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from vacsr_jax.search.stores.base import DocumentStore, one_line

KINDS = ("lance", "milvus", "qdrant")
COLLECTION = "documents"
EXPECTED = "expected lance:PATH, milvus:FILE.db or milvus:URL, or qdrant:URL, with #NAME for another collection"


class Address(NamedTuple):
    """Where a store is.

    Attributes:
      kind: one of KINDS.
      place: a URL, or the absolute path of a folder or file.
      collection: the name of the collection or table.
    """

    kind: str
    place: str
    collection: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}#{self.collection}"

    @property
    def is_local(self) -> bool:
        return "://" not in self.place


def read_address(text: str) -> Address:
    """The address that a text gives; raises ValueError, with the forms of addresses, if it gives none."""
    kind, _, rest = text.partition(":")
    place, _, collection = rest.partition("#")
    if kind not in KINDS or not place:
        raise ValueError(f"--store: got {text!r}, {EXPECTED}")
    address = Address(kind, place, collection or COLLECTION)
    if not address.is_local:
        return address
    if kind == "milvus" and not place.endswith(".db"):
        raise ValueError(f"--store: got the file {place!r}, which Milvus Lite wants to end in .db; {EXPECTED}")
    return address._replace(place=str(Path(place).resolve()))


def open_store(address: Address, *, exact: bool = False) -> DocumentStore:
    """The store at an address. Keys for servers are read from QDRANT_API_KEY and MILVUS_TOKEN.

    Raises:
      ValueError: if the package of this kind is not installed; it says which extra has it.
      OSError: if the server does not answer, or another process has the files open.
    """
    try:
        return {"lance": _lance, "milvus": _milvus, "qdrant": _qdrant}[address.kind](address, exact)
    except ImportError as error:
        raise ValueError(f"--store: {error}") from error


def _lance(address: Address, exact: bool) -> Any:
    from vacsr_jax.search.stores.lance import LanceStore

    return LanceStore(address.place, address.collection, exact=exact)


def _milvus(address: Address, exact: bool) -> Any:
    from vacsr_jax.search.stores.milvus import MilvusStore, import_pymilvus

    pymilvus = import_pymilvus()
    if address.is_local and importlib.util.find_spec("milvus_lite") is None:
        raise ImportError('milvus_lite is not installed; pip install "vacsr_jax[milvus]"')
    with one_line(f"Milvus at {address.place}", pymilvus.MilvusException):
        client = pymilvus.MilvusClient(address.place, token=os.environ.get("MILVUS_TOKEN", ""))
    # The index that Milvus Lite chooses itself loses documents when a search is filtered, and the modality is a filter.
    return MilvusStore(client, address.collection, exact=exact or address.is_local)


def _qdrant(address: Address, exact: bool) -> Any:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ImportError('qdrant-client is not installed; pip install "vacsr_jax[search]"') from error
    from vacsr_jax.search.stores.qdrant import QdrantStore

    with one_line(f"Qdrant at {address.place}", RuntimeError):  # what it says of a folder that is open elsewhere
        if address.is_local:
            client = QdrantClient(path=address.place)
        else:
            key = os.environ.get("QDRANT_API_KEY")
            client = QdrantClient(url=address.place, api_key=key, timeout=60, check_compatibility=False)
    return QdrantStore(client, address.collection, exact=exact)
