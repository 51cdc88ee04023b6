"""The index of documents of several modalities."""

from vacsr_jax.search.index.mixed import MixedIndex

__all__ = ["MixedIndex"]
