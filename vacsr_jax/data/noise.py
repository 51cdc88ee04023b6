"""Noisy correspondence: pairs some training captions with a wrong image, by the protocols of the literature.

A protocol returns an index: int64 [captions], the image of each caption, with captions in the source's order. The index
files that NCR and its successors publish have the same form.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vacsr_jax.atomic_files import replace_whole
from vacsr_jax.safe_npz import read_npy

MOST_WRONG = 0.95  # a file with a larger share is taken for the index of other captions


class Noise(NamedTuple):
    """An index, and the facts that results must state: how it was made, the share of wrong captions, a hash."""

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    facts: dict[str, str | float | int]


def permute_captions(image_of: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """NCR (Huang et al. 2021): draws floor(fraction n) captions and permutes their images among them.

    Every caption and image occurs as often as before. Most images keep some correct captions, and a drawn caption may
    get its own image again (on average one does). `image_of` int64 [n] is the correct image of each caption.
    """
    chosen = rng.permutation(len(image_of))[: int(fraction * len(image_of))]
    index = image_of.copy()
    index[chosen] = image_of[rng.permutation(chosen)]
    return index


def permute_positions(image_of: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """PCME++ (Chun 2024): draws floor(fraction n) positions and permutes the captions at them; the images stay.

    Pairs have the same distribution as with `permute_captions`. The original code draws without a seed.
    """
    chosen = rng.permutation(len(image_of))[: int(fraction * len(image_of))]
    caption_at = np.arange(len(image_of))
    caption_at[chosen] = rng.permutation(chosen)
    index = np.empty_like(image_of)
    index[caption_at] = image_of
    return index


def permute_images(image_of: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """DECL (Qin et al. 2022): draws floor(fraction images) images and exchanges all their captions.

    This is harder than the other protocols at the same fraction: a drawn image keeps no correct caption unless the
    permutation returns its own.
    """
    images = np.unique(image_of)
    chosen = rng.permutation(images)[: int(fraction * len(images))]
    new_image = np.arange(images[-1] + 1) if len(images) else images
    new_image[chosen] = rng.permutation(chosen)
    return new_image[image_of]


PROTOCOLS = {"caption": permute_captions, "image": permute_images, "pcmepp": permute_positions}


def make_noise(image_of: np.ndarray, fraction: float, *, protocol: str, seed: int) -> Noise:
    """Draws the index of a protocol in `PROTOCOLS`. Equal captions, fraction and seed give an equal index.

    Raises:
      ValueError: if `fraction` is not in [0, 1], or for an unknown protocol.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"data.noise: got {fraction}, expected a fraction between 0 and 1")
    if protocol not in PROTOCOLS:
        raise ValueError(f"data.noise_protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    index = PROTOCOLS[protocol](image_of, fraction, np.random.default_rng([seed, 0x5EED]))
    return Noise(index, {"protocol": protocol, "fraction": fraction, "seed": seed, **describe(index, image_of)})


def read_noise(path: str | Path, image_of: np.ndarray) -> Noise:
    """Reads an index from a `.npy` file, ours or one published by NCR, MSCN or BiCro.

    Its captions must be in this source's order. For COCO and Flickr30k that is the order of Karpathy's file: the five
    captions of an image together, images numbered from 0.

    Raises:
      ValueError: if the file holds something else, or if nearly every caption is wrong, which means another order.
    """
    index, n_images = read_npy(path), int(image_of.max()) + 1
    if index.shape != image_of.shape or index.dtype.kind not in "iu":
        got = f"{index.dtype} {list(index.shape)}"
        raise ValueError(f"{path}: got {got}, expected integers [{len(image_of)}], one image per training caption")
    if len(index) and not 0 <= index.min() <= index.max() < n_images:
        raise ValueError(f"{path}: got images {index.min()}..{index.max()}, the training split has 0..{n_images - 1}")
    facts = describe(index := index.astype(np.int64), image_of)
    if facts["wrong"] > MOST_WRONG:
        raise ValueError(
            f"{path}: {100 * facts['wrong']:.1f} % of the captions get a wrong image; "
            "the file must number captions and images in the order of this source"
        )
    return Noise(index, {"file": Path(path).name, **facts})


def write_noise(path: Path, index: np.ndarray) -> None:
    """Writes an index file, atomically, that `read_noise` and NCR's code read."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, index.astype("<i8"))

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, write)


def describe(index: np.ndarray, image_of: np.ndarray) -> dict[str, Any]:
    """Returns `wrong`, the share of captions with a wrong image, and `sha256` of the index as little-endian int64."""
    wrong = float(np.mean(index != image_of)) if len(index) else 0.0
    return {"wrong": wrong, "sha256": hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()}
