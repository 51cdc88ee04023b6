"""Near-duplicate images, and near-duplicate captions of different images: matches that no label knows of."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vacsr_jax.audit.judge import Judge
from vacsr_jax.audit.stream import COLUMNS, ROWS, Best
from vacsr_jax.data.embeddings import unit_rows
from vacsr_jax.ops.pairwise import even_part
from vacsr_jax.scoring.pairs import DELAY

PROBES = 256  # items of the other side, by whose logits items are compared that are not one vector


class Duplicates(NamedTuple):
    """Pairs [k, 2] of images, and of captions, with their similarities [k], the most similar first."""

    images: np.ndarray
    image_similarity: np.ndarray
    captions: np.ndarray
    caption_similarity: np.ndarray


def find_duplicates(judge: Judge, threshold: float, most: int) -> Duplicates:
    """The pairs of images, and of captions with different images, whose similarity is at least `threshold`.

    The similarity is the cosine of the given embeddings, or else of the model's vectors. Items that are not one vector
    (method tokens) are compared by the correlation of their match logits with up to `PROBES` items of the other side.
    The images are those of the whole data set, whichever the judge's own are. At most `most` pairs of each kind.
    """
    n, m = len(judge.data.source), len(judge.data.image_of)
    images, texts = _vectors(judge, n, m)
    found = []
    for vectors, group in ((images, np.arange(n)), (texts, judge.data.image_of)):
        similarity, pair = similar_pairs(vectors, group, threshold, most)
        found += [pair, similarity]
    return Duplicates(*found)


def _vectors(judge: Judge, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    source: Any = judge.data.source
    if hasattr(source, "gather") and hasattr(source, "text_inputs"):
        return source.gather(np.arange(n)), judge.texts[np.arange(m)]
    images, texts = judge.image_items(np.arange(n)), judge.text_items(np.arange(m))
    try:
        return judge.trained.cosine_vectors(images), judge.trained.cosine_vectors(texts)
    except ValueError:
        rng = np.random.default_rng(0)
        rows, columns = (np.sort(rng.permutation(k)[:PROBES]) for k in (n, m))
        of_images, _ = judge.parts(images, jax.tree.map(lambda x: x[columns], texts))
        of_texts, _ = judge.parts(jax.tree.map(lambda x: x[rows], images), texts)
        centred = [x - x.mean(axis=1, keepdims=True) for x in (of_images, of_texts.T)]
        return centred[0], centred[1]


def similar_pairs(vectors: np.ndarray, group: np.ndarray, threshold: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs i < j of vectors [n, d] of different groups with cosine >= `threshold`: cosines [k], pairs [k, 2]."""
    unit, length = unit_rows(vectors)
    unit[~(np.isfinite(length) & (length > 0))] = 0
    n, best = len(unit), Best(most, np.nextafter(np.float32(threshold), np.float32(-2)))
    height, width = even_part(n, ROWS), even_part(n, COLUMNS)
    with tqdm(total=n, desc="finding duplicates", unit=" rows", delay=DELAY, leave=False) as bar:
        for left in range(0, n, width):
            columns = jnp.asarray(_padded(unit, left, width))
            for top in range(0, min(n, left + width), height):
                rows = _padded(unit, top, height)
                cosine = np.asarray(_product(rows, columns))
                i, j = np.nonzero(cosine > best.floor)
                score, i, j = cosine[i, j], i + top, j + left
                kept = (i < j) & (j < n)
                kept[kept] = group[i[kept]] != group[j[kept]]
                best.add(score[kept], np.stack([i[kept], j[kept]], axis=1))
            bar.update(min(width, n - left))
    score, pair = best.sorted()
    return np.minimum(score, 1), pair


def _padded(x: np.ndarray, start: int, size: int) -> np.ndarray:
    part = x[start : start + size]
    return np.pad(part, [(0, size - len(part)), (0, 0)])


@jax.jit
def _product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return rows @ columns.T
