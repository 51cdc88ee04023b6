"""Text entropy: how many images a caption fits, from a frozen model's scores; no labels, no training.

A data set labels a caption with one image, so a model that learned those labels scores a general caption ("a red
square") below a specific one by the log of how many images it is true of. The entropy H_j of caption j over a bank of
images estimates that log, and s_ij + w H_j gives it back where captions are ranked for an image. Where images are
ranked for one caption it is a constant, and moves nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float

from vacsr_jax.arrays import read_npz
from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.search.checks import Names, Vectors, check_embeddings, check_ids
from vacsr_jax.search.pseudo_positives import BANK, CHUNK_SCORES, QUERY, Array, cosines

TEXTS = 8192  # texts on the device at once, when they come from the host

Sums = tuple[jax.Array, jax.Array, jax.Array]  # see `_sums`


@jax.jit
def score_entropy(scores: Float[Array, "n m"], valid: Bool[Array, " n"] | None = None) -> Float[jax.Array, " m"]:
    """H_j = -sum_i p_ij log p_ij with p_ij = softmax_i(s_ij), of each text j over a bank of n images; nats, 0 to log n.

    exp(H_j) is the effective number of images that the text fits. Corrected score: s_ij + w H_j, with w = 1 where the
    scores are the model's own logits: it follows from Elkan and Noto 2008 (a label is a match times the odds of getting
    labelled) if an InfoNCE model's p(i | j) is spread evenly over the images that match. Relatives, all with one number
    for each text too: CSLS (Lample et al. 2018) subtracts the mean of the k best scores, the inverted softmax (Smith et
    al. 2017) log sum_i exp(s_ij).

    Args:
      scores: logits of a text with every image of the bank, as the model scales them: any pair model's.
      valid: images that count; others are padding. All, if None. Scores of -inf count for nothing either.

    Returns:
      float32; 0 for a text without any image.
    """
    scores = jnp.asarray(scores).astype(jnp.float32)
    return _entropy(_sums(scores if valid is None else jnp.where(valid[:, None], scores, -jnp.inf)))


def bank_entropy(
    texts: Float[Array, "m d"],
    images: Float[Array, "n d"],
    scale: float,
    *,
    valid: Bool[Array, " n"] | None = None,
    chunk: int | None = None,
) -> Float[jax.Array, " m"]:
    """`score_entropy` of the scores scale x cosine, for unit vectors, `chunk` images at a time (default: 64 MB)."""
    valid = np.ones(len(images), bool) if valid is None else valid
    if chunk is None:
        chunk = max(128, CHUNK_SCORES // max(1, len(texts)))
    return _entropy(_bank_sums(texts, images, valid, scale, chunk=min(chunk, max(1, len(images)))))


def sharded_bank_entropy(
    mesh: Mesh,
    texts: Float[Array, "m d"],
    images: Float[Array, "n d"],
    scale: float,
    *,
    valid: Bool[Array, " n"] | None = None,
    chunk: int | None = None,
) -> Float[jax.Array, " m"]:
    """`bank_entropy` over a mesh with an axis "query" (shares out the texts), "bank" (the images), or both.

    Three numbers for each text travel over the bank axis. Rows that do not divide evenly are padded.
    """
    q, n = (name if name in mesh.axis_names else None for name in (QUERY, BANK))
    if not (q or n):
        raise ValueError(f"mesh: got the axes {mesh.axis_names}, expected {QUERY}, {BANK} or both")
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever the caller's are

    def share(x, axis):
        parts = mesh.shape[axis] if axis else 1
        x = np.pad(x, [(0, -len(x) % parts)] + [(0, 0)] * (np.ndim(x) - 1))
        return jax.device_put(x, NamedSharding(mesh, P(axis)))

    def local(texts, images, valid):
        size = chunk or max(128, CHUNK_SCORES // max(1, len(texts)))
        sums = _bank_sums(texts, images, valid, scale, chunk=min(size, len(images)))
        if not n:
            return _entropy(sums)
        peak = jax.lax.pmax(sums[0], n)
        _, mass, moment = _at_peak(sums, peak)
        return _entropy((peak, jax.lax.psum(mass, n), jax.lax.psum(moment, n)))

    shared = (share(texts, q), share(images, n), share(np.ones(len(images), bool) if valid is None else valid, n))
    run = jax.shard_map(local, mesh=mesh, in_specs=(P(q), P(n), P(n)), out_specs=P(q), check_vma=False)
    return jax.jit(run)(*shared)[: len(texts)]


@functools.partial(jax.jit, static_argnames="chunk")
def _bank_sums(texts, images, valid, scale, *, chunk: int) -> Sums:
    blocks = -(-len(images) // chunk)
    padding = blocks * chunk - len(images)
    images = jnp.pad(jnp.asarray(images), ((0, padding), (0, 0))).reshape(blocks, chunk, -1)
    valid = jnp.pad(jnp.asarray(valid), (0, padding)).reshape(blocks, chunk)

    def add(sums, block):
        rows, real = block
        return _merge(sums, _sums(jnp.where(real[:, None], scale * cosines(rows, texts), -jnp.inf))), None

    zero = jnp.zeros(len(texts), jnp.float32)
    return jax.lax.scan(add, (zero - jnp.inf, zero, zero), (images, valid))[0]


def _sums(scores: jax.Array) -> Sums:
    """Of scores [n m]: peak = max_i s, mass = sum_i e^(s - peak), moment = sum_i (s - peak) e^(s - peak), all [m]."""
    peak = jnp.max(scores, axis=0, initial=-jnp.inf)
    below = jnp.where(jnp.isneginf(scores), 0.0, scores - peak)
    weight = jnp.where(jnp.isneginf(scores), 0.0, jnp.exp(below))
    return peak, jnp.sum(weight, axis=0), jnp.sum(weight * below, axis=0)


def _at_peak(sums: Sums, peak: jax.Array) -> Sums:
    """The same sums against a higher peak."""
    below = jnp.where(jnp.isneginf(sums[0]), 0.0, sums[0] - peak)
    return peak, jnp.exp(below) * sums[1], jnp.exp(below) * (sums[2] + below * sums[1])


def _merge(a: Sums, b: Sums) -> Sums:
    peak = jnp.maximum(a[0], b[0])
    (_, mass_a, moment_a), (_, mass_b, moment_b) = _at_peak(a, peak), _at_peak(b, peak)
    return peak, mass_a + mass_b, moment_a + moment_b


def _entropy(sums: Sums) -> jax.Array:
    # log Z - E[s], both against the peak: two terms of one sign, so nothing cancels.
    _, mass, moment = sums
    return jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1)) - moment / jnp.where(mass > 0, mass, 1), 0.0)


# A bank that is fixed once, so that texts may come at any time.


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBank:
    """The images that a text's entropy is taken over, and how; `make_bank` makes one, `save` and `load` keep it.

    Attributes:
      images: float32 [n, d], unit vectors.
      scale: what the model multiplies a cosine by.
      weight: w of s + w H.
      ids: of the images, so that the bank's source can be told.
      model_id: what made the embeddings.
    """

    images: np.ndarray
    scale: float
    weight: float
    ids: tuple[str, ...]
    model_id: str

    def entropy(self, texts: Vectors) -> np.ndarray:
        """H of texts [m, d], of any length but zero: float32 [m], nats. Texts in parts give what they give at once.

        Raises:
          ValueError: if one is not finite, zero, or of another size than the bank's images.
        """
        texts = check_embeddings(texts, self.images.shape[1], "texts")
        parts = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
        return np.concatenate([self._entropy(part) for part in parts])

    def bias(self, texts: Vectors) -> np.ndarray:
        """w H / scale, float32 [m]: what to add to the cosine of a text with any image; errors as `entropy`."""
        return np.float32(self.weight / self.scale) * self.entropy(texts)

    def _entropy(self, texts: np.ndarray) -> np.ndarray:
        # Numbers of texts are rounded up to powers of two: few compilations however they arrive.
        padded = np.pad(texts, ((0, max(8, 1 << (len(texts) - 1).bit_length()) - len(texts)), (0, 0)))
        return np.asarray(bank_entropy(padded, self.images, self.scale))[: len(texts)]


def make_bank(
    images: Vectors, scale: float, *, weight: float = 1.0, ids: Names | None = None, model_id: str = ""
) -> ImageBank:
    """A bank of images of any length but zero [n, d].

    Training images, or others that nobody will search with; some hundreds, like the images to come.

    Args:
      scale: the model's exp(logit_scale): 100 for CLIP. Where none is known, `evaluation.text_entropy.fit_scale` finds
        one from validation pairs.
      ids: of the images; "0", "1", ... if none are given.

    Raises:
      ValueError: for embeddings or ids that `checks` refuses, a scale that is not above 0, a weight not finite.
    """
    images = check_embeddings(images, None, "images of the bank")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale: got {scale}, expected a number above 0, such as a CLIP's 100")
    if not np.isfinite(weight):
        raise ValueError(f"weight: got {weight}, expected a finite number such as 1")
    ids = check_ids(ids if ids is not None else [str(i) for i in range(len(images))], len(images), ())
    return ImageBank(images, float(scale), float(weight), tuple(ids), model_id)


def fold(vectors: Vectors, last: float | int | np.ndarray) -> np.ndarray:
    """[x, last], float32 [n, d + 1]: a bias for a store that ranks by inner products and knows no bias.

    Store `fold(unit texts, bias)` and `fold(unit images, 0)`. A query by image is `fold(image, 1)` and scores cosine
    plus bias; a query by text is `fold(text, 0)` and scores the cosine. Not for a store that normalises its vectors.
    """
    vectors = np.asarray(vectors, np.float32)
    return np.concatenate([vectors, np.broadcast_to(np.float32(last), len(vectors))[:, None]], axis=1)


def save(bank: ImageBank, path: str | Path) -> None:
    """Writes a bank as npz, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name without .npz would get it appended
            np.savez(file, **dataclasses.asdict(bank))

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, write)


def load(path: str | Path) -> ImageBank:
    """The inverse of `save`, equal to the last bit; raises ValueError, naming the file, for what it did not write."""
    names = {field.name for field in dataclasses.fields(ImageBank)}
    try:
        arrays = read_npz(path)
        if set(arrays) != names:
            raise ValueError(f"got the arrays {sorted(arrays)}, expected {sorted(names)}")
        images, ids = arrays["images"], arrays["ids"]
        numbers = {name: float(arrays[name]) for name in ("scale", "weight")}
        bank = make_bank(images, ids=ids, model_id=str(arrays["model_id"]), **numbers)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no bank of images ({error}); write it with `vacsr entropy fit`") from error
    return dataclasses.replace(bank, images=images)  # normalising once more would move the last bit
