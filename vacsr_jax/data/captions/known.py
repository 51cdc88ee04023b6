"""The known caption data sets: how many images were published, and where to get the files."""

from __future__ import annotations

from typing import NamedTuple

PER_IMAGE = 5  # captions per image in published results

_KARPATHY = (
    "dataset_{name}.json, into {root}: "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (37 MB)"
)


class KnownSet(NamedTuple):
    """A caption data set.

    Attributes:
      images: published numbers of images, with `PER_IMAGE` captions each, per split of Karpathy.
      get: where each of its files is and where it belongs; {name} and {root} are filled in.
    """

    images: dict[str, int]
    get: tuple[str, ...]


KNOWN = {
    "coco": KnownSet(
        {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000},
        (
            "images: http://images.cocodataset.org/zips/train2014.zip (13.5 GB) and val2014.zip (6.6 GB), unpacked to "
            "{root}/train2014 and {root}/val2014",
            _KARPATHY,
            "or instead of that file: http://images.cocodataset.org/annotations/annotations_trainval2014.zip (253 MB), "
            "unpacked to {root}/annotations, and coco_{{train,restval,dev,test}}_ids.npy of github.com/naver-ai/pcme, "
            "into {root}/karpathy_ids",
            "or everything through TFDS, on a machine with TensorFlow: tfds build coco_captions/2014 "
            "--file_format=array_record --data_dir={root}",
            "ground truth of CxC and ECCV Caption: the folder `data` of the Python package eccv_caption",
        ),
    ),
    "flickr30k": KnownSet(
        {"train": 29_000, "val": 1_014, "test": 1_000},
        (
            "images: through the form at https://shannon.cs.illinois.edu/DenotationGraph, unpacked to "
            "{root}/flickr30k-images",
            _KARPATHY,
        ),
    ),
    "flickr8k": KnownSet(
        {"train": 6_000, "val": 1_000, "test": 1_000},
        (
            "images: through the form at https://forms.illinois.edu/sec/1713398, unpacked to {root}/Flicker8k_Dataset",
            _KARPATHY,
        ),
    ),
}
