"""Vector stores that can take the place of the index."""

from vacsr_jax.search.stores.faiss import FaissStore
from vacsr_jax.search.stores.lance import LanceStore
from vacsr_jax.search.stores.milvus import MilvusStore
from vacsr_jax.search.stores.qdrant import QdrantStore

__all__ = ["FaissStore", "LanceStore", "MilvusStore", "QdrantStore"]
