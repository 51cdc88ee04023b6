"""A mixed search problem small enough to work out by hand."""

import numpy as np

from vacsr_jax.data.embeddings import Embeddings


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def embeddings(vectors, ids, modality, **lists):
    return Embeddings(vectors, np.array(ids), np.array(modality), **lists)


def gap():
    """Twelve topics; texts and images of a topic are near, but all images lie a gap away from all texts."""
    rng = np.random.default_rng(0)
    n, d = 12, 16
    topic = rng.normal(size=(n, d))
    image = topic + 0.3 * rng.normal(size=(n, d)) + 4 * np.eye(d)[0]
    text, query = (topic + 0.4 * rng.normal(size=(n, d)) - 4 * np.eye(d)[0] for _ in range(2))
    documents = embeddings(
        unit(np.concatenate([image, text])),
        [f"i{j}" for j in range(n)] + [f"t{j}" for j in range(n)],
        ["image"] * n + ["text"] * n,
    )
    half = [(f"i{j}",) if j % 2 else (f"t{j}",) for j in range(n)]
    hidden = [(f"t{j}",) if j % 2 else () for j in range(n)]
    queries = embeddings(
        unit(query), [f"q{j}" for j in range(n)], ["text"] * n, answers=tuple(half), exclude=tuple(hidden)
    )
    return queries, documents
