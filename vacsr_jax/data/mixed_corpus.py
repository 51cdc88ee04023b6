"""Benchmarks of mixed search from any pictures with several captions: the answer is a picture or another caption."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

IMAGE, TEXT = "image", "text"


class MixedCorpus(NamedTuple):
    """Which pictures and captions are searched for what.

    Attributes:
      query: int [q], captions that are the queries.
      answer: int [q], each one's document, as a row of `image` and `caption` one after the other.
      image: int [i], pictures that are documents.
      caption: int [c], captions that are documents.
    """

    query: np.ndarray
    answer: np.ndarray
    image: np.ndarray
    caption: np.ndarray


def mixed_corpus(image_index: np.ndarray, share: float, seed: int, *, distractors: float = 0.0) -> MixedCorpus:
    """One document for each query: the query is a caption, the document its picture or, else, another caption of it.

    `share` is that of the pictures. `distractors` is the fraction of all pictures that no query is about and that are
    in the bank as picture and as caption; with none it is the mixed corpus of GR-CLIP (2507.19054), whose documents are
    those of the queries alone, and a share of 0 or 1 leaves one modality.

    Args:
      image_index: the picture of each caption, int [p], as `data.source.caption_pairs` gives it.
      seed: of the choice of pictures, and of two captions of each.

    Raises:
      ValueError: if share or distractors are no fractions, or fewer than two pictures have two captions.
    """
    if not (0 <= share <= 1 and 0 <= distractors < 1):
        raise ValueError(f"got share {share} and distractors {distractors}, expected fractions")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(image_index))
    captions = shuffled[np.argsort(image_index[shuffled], kind="stable")]  # by picture, in any order within one
    pictures, start, counts = np.unique(image_index[captions], return_index=True, return_counts=True)
    pictures, start = pictures[counts > 1], start[counts > 1]
    if len(pictures) < 2:
        raise ValueError(f"{len(pictures)} pictures have two captions or more; a mixed corpus needs at least two")
    first_of, second_of = captions[start], captions[start + 1]
    order = rng.permutation(len(pictures))
    n = len(pictures) - round(distractors * len(pictures))
    by_picture, by_caption, nobody = np.split(order, [round(share * n), n])
    image = np.sort(np.concatenate([by_picture, nobody]))
    caption = np.sort(np.concatenate([by_caption, nobody]))
    asked = np.sort(np.concatenate([by_picture, by_caption]))
    answered_by_picture = np.isin(asked, by_picture)
    answer = np.where(answered_by_picture, np.searchsorted(image, asked), len(image) + np.searchsorted(caption, asked))
    return MixedCorpus(first_of[asked], answer, pictures[image], second_of[caption])
