"""A benchmark of mixed search from pictures with several captions: the answer is a picture or another caption."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

IMAGE, TEXT = "image", "text"


class MixedCorpus(NamedTuple):
    """The queries, their answers, and the documents.

    Attributes:
      query: int [q], the captions that are queries.
      answer: int [q], the document that answers each, as a row of `image` followed by `caption`.
      image: int [i], the pictures that are documents.
      caption: int [c], the captions that are documents.
    """

    query: np.ndarray
    answer: np.ndarray
    image: np.ndarray
    caption: np.ndarray


def mixed_corpus(image_index: np.ndarray, share: float, seed: int, *, distractors: float = 0.0) -> MixedCorpus:
    """A query is a caption, and its document is its picture or another caption of it; `share` is that of the pictures.

    `distractors` is the fraction of all pictures that no query is about. They are among the documents as picture and as
    caption. Without them it is the mixed corpus of GR-CLIP (2507.19054), whose documents are those of the queries only;
    a share of 0 or 1 then leaves one modality.

    Args:
      image_index: the picture of each caption, int [p], as `data.source.caption_pairs` gives it.
      seed: for the choice of pictures, and of two captions of each.

    Raises:
      ValueError: if share or distractors are not fractions, or fewer than two pictures have two captions.
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
