"""Text entropy: how many images a caption fits, estimated from a frozen model's scores without labels or training.

A data set labels a caption with one image. A model trained on those labels therefore scores a general caption ("a red
square") lower than a specific one, by the log of the number of images it is true of. The entropy H_j of caption j over
a set of reference images estimates that log, and s_ij + w H_j adds it back when captions are ranked for an image. When
images are ranked for one caption, H_j is a constant and changes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.metrics.retrieval import RSUM_KS, recall_at_k
from vacsr_jax.safe_npz import read_npz
from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.standardize.pseudo_positives import CHUNK_SCORES, Array, cosines

TEXTS = 8192  # texts on the device at once, when they come from the host
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)

Sums = tuple[jax.Array, jax.Array, jax.Array]  # see `_sums`


@jax.jit
def score_entropy(scores: Float[Array, "n m"]) -> Float[jax.Array, " m"]:
    """H_j = -sum_i p_ij log p_ij with p_ij = softmax_i(s_ij), of each text j over n images; nats, 0 to log n.

    exp(H_j) is the effective number of images that the text fits. The corrected score is s_ij + w H_j, with w = 1 if
    the scores are the model's own logits. It follows from Elkan and Noto 2008 (the probability of a label is that of a
    match times the propensity to be labelled) if the p(i | j) of an InfoNCE model is spread evenly over the images that
    match. Two relatives also add one number for each text: CSLS (Lample et al. 2018) subtracts the mean of the k best
    scores, and the inverted softmax (Smith et al. 2017) subtracts log sum_i exp(s_ij).

    Args:
      scores: logits of each text with every image, as any pair model scales them. A score of -inf is ignored.

    Returns:
      float32; 0 for a text without any image.
    """
    return _entropy(_sums(jnp.asarray(scores).astype(jnp.float32)))


def cosine_entropy(
    texts: Float[Array, "m d"], images: Float[Array, "n d"], scale: float, *, chunk: int | None = None
) -> Float[jax.Array, " m"]:
    """`score_entropy` of the scores scale x cosine of unit vectors, `chunk` images at a time (default: 64 MB)."""
    if chunk is None:
        chunk = max(128, CHUNK_SCORES // max(1, len(texts)))
    return _cosine_entropy(texts, images, scale, chunk=min(chunk, max(1, len(images))))


@functools.partial(jax.jit, static_argnames="chunk")
def _cosine_entropy(texts, images, scale, *, chunk: int) -> jax.Array:
    n = len(images)
    blocks = -(-n // chunk)
    images = jnp.pad(jnp.asarray(images), ((0, blocks * chunk - n), (0, 0))).reshape(blocks, chunk, -1)
    real = (jnp.arange(blocks * chunk) < n).reshape(blocks, chunk)

    def add(sums, block):
        rows, is_real = block
        return _merge(sums, _sums(jnp.where(is_real[:, None], scale * cosines(rows, texts), -jnp.inf))), None

    zero = jnp.zeros(len(texts), jnp.float32)
    return _entropy(jax.lax.scan(add, (zero - jnp.inf, zero, zero), (images, real))[0])


def _sums(scores: jax.Array) -> Sums:
    """peak = max_i s, mass = sum_i e^(s - peak), moment = sum_i (s - peak) e^(s - peak) of scores [n m], all [m]."""
    peak = jnp.max(scores, axis=0, initial=-jnp.inf)
    below = jnp.where(jnp.isneginf(scores), 0.0, scores - peak)
    weight = jnp.where(jnp.isneginf(scores), 0.0, jnp.exp(below))
    return peak, jnp.sum(weight, axis=0), jnp.sum(weight * below, axis=0)


def _merge(a: Sums, b: Sums) -> Sums:
    peak = jnp.maximum(a[0], b[0])

    def at_peak(sums):
        below = jnp.where(jnp.isneginf(sums[0]), 0.0, sums[0] - peak)
        return jnp.exp(below) * sums[1], jnp.exp(below) * (sums[2] + below * sums[1])

    (mass_a, moment_a), (mass_b, moment_b) = at_peak(a), at_peak(b)
    return peak, mass_a + mass_b, moment_a + moment_b


def _entropy(sums: Sums) -> jax.Array:
    # log Z - E[s], both relative to the peak: two terms of one sign, so nothing cancels.
    _, mass, moment = sums
    return jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1)) - moment / jnp.where(mass > 0, mass, 1), 0.0)


# Reference images that are fixed once, so that texts may come at any time.


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceImages:
    """The images that a text's entropy is computed over, with scale and weight; `make_reference_images` makes them.

    Attributes:
      images: float32 [n, d], unit vectors.
      scale: the factor by which the model multiplies a cosine.
      weight: w of s + w H.
      ids: the ids of the images, so that their source can be traced.
      model_id: the model that made the embeddings.
    """

    images: np.ndarray
    scale: float
    weight: float
    ids: tuple[str, ...]
    model_id: str

    def entropy(self, texts: Vectors) -> np.ndarray:
        """H of texts [m, d] of any length but zero: float32 [m], nats. The result is the same for any batching.

        Raises:
          ValueError: if a text is not finite, zero, or of another dimension than the images.
        """
        texts = check_embeddings(texts, self.images.shape[1], "texts")
        parts = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
        return np.concatenate([self._entropy(part) for part in parts])

    def bias(self, texts: Vectors) -> np.ndarray:
        """w H / scale, float32 [m], to add to the cosine of a text with any image. Raises as `entropy` does."""
        return np.float32(self.weight / self.scale) * self.entropy(texts)

    def _entropy(self, texts: np.ndarray) -> np.ndarray:
        # The number of texts is rounded up to a power of two, which keeps the number of compilations small.
        padded = np.pad(texts, ((0, max(8, 1 << (len(texts) - 1).bit_length()) - len(texts)), (0, 0)))
        return np.asarray(cosine_entropy(padded, self.images, self.scale))[: len(texts)]


def make_reference_images(
    images: Vectors, scale: float, *, weight: float = 1.0, ids: Names | None = None, model_id: str = ""
) -> ReferenceImages:
    """Makes reference images from embeddings [n, d] of any length but zero.

    Take some hundreds of training images, or other images that nobody will search with, similar to future queries.

    Args:
      scale: the model's exp(logit_scale), 100 for CLIP. If it is not known, `metrics.scale.fit_scale` finds one from
        validation pairs.
      ids: the ids of the images; "0", "1", ... by default.

    Raises:
      ValueError: if `checks` refuses the embeddings or ids, the scale is not above 0, or the weight is not finite.
    """
    images = check_embeddings(images, None, "reference images")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: got {scale}, expected a number above 0, such as 100 for CLIP")
    if not np.isfinite(weight):
        raise ValueError(f"weight: got {weight}, expected a finite number such as 1")
    ids = check_ids(ids if ids is not None else [str(i) for i in range(len(images))], len(images), ())
    return ReferenceImages(images, float(scale), float(weight), tuple(ids), model_id)


def save(reference: ReferenceImages, path: str | Path) -> None:
    """Writes reference images as npz, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would append .npz to a name without it
            np.savez(file, **dataclasses.asdict(reference))

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, write)


def load(path: str | Path) -> ReferenceImages:
    """The inverse of `save`, bit for bit; raises ValueError, naming the file, if `save` did not write it."""
    names = {field.name for field in dataclasses.fields(ReferenceImages)}
    try:
        arrays = read_npz(path)
        if set(arrays) != names:
            raise ValueError(f"got the arrays {sorted(arrays)}, expected {sorted(names)}")
        images, ids = arrays["images"], arrays["ids"]
        numbers = {name: float(arrays[name]) for name in ("scale", "weight")}
        reference = make_reference_images(images, ids=ids, model_id=str(arrays["model_id"]), **numbers)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no reference images ({error}); write it with `vacsr entropy fit`") from error
    return dataclasses.replace(reference, images=images)  # scaling to unit length again would change the last bit


def append_dimension(vectors: Vectors, last: float | int | np.ndarray) -> np.ndarray:
    """[x, last], float32 [n, d + 1]: puts a bias into a store that ranks by inner products and has no bias itself.

    Store `append_dimension(unit texts, bias)` and `append_dimension(unit images, 0)`. Their product with the query
    `append_dimension(image, 1)` is cosine plus bias; their product with `append_dimension(text, 0)` is the cosine. This
    does not work in a store that scales its vectors to unit length.
    """
    vectors = np.asarray(vectors, np.float32)
    return np.concatenate([vectors, np.broadcast_to(np.float32(last), len(vectors))[:, None]], axis=1)


# Scale and weight from validation pairs.


def choose_weight(
    scores: np.ndarray, bias: np.ndarray, positives: np.ndarray, weights: Sequence[float] = WEIGHTS
) -> float:
    """The weight of a bias [m] with the largest R@1 + R@5 + R@10 of texts for images; the first of equals.

    `scores` and `positives` are [n, m]. The choice is made by labels, so it is right for "which caption was it labelled
    with?" and too small for "which captions are true?".
    """
    return max(weights, key=lambda w: sum(recall_at_k(scores + w * bias, positives, RSUM_KS).values()))
