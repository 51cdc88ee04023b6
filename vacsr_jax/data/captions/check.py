"""Reports which files of COCO, Flickr30k or Flickr8k were found, which are missing, and where to get them."""

from __future__ import annotations

from pathlib import Path

from vacsr_jax.data.captions.open import FORMS, open_captions
from vacsr_jax.data.captions.source import SPLITS
from vacsr_jax.data.classification.check import Found

_KARPATHY = (
    "dataset_{name}.json, into {root}: "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (37 MB)"
)
SOURCES = {
    "coco": (
        "images: http://images.cocodataset.org/zips/train2014.zip (13.5 GB) and val2014.zip (6.6 GB), unpacked to "
        "{root}/train2014 and {root}/val2014",
        _KARPATHY,
        "or instead of that file: http://images.cocodataset.org/annotations/annotations_trainval2014.zip (253 MB), "
        "unpacked to {root}/annotations, and coco_{{train,restval,dev,test}}_ids.npy of github.com/naver-ai/pcme, into "
        "{root}/karpathy_ids",
        "or everything through TFDS, on a machine with TensorFlow: tfds build coco_captions/2014 "
        "--file_format=array_record --data_dir={root}",
        "ground truth of CxC and ECCV Caption: the folder `data` of the Python package eccv_caption",
    ),
    "flickr30k": (
        "images: through the form at https://shannon.cs.illinois.edu/DenotationGraph, unpacked to "
        "{root}/flickr30k-images",
        _KARPATHY,
    ),
    "flickr8k": (
        "images: through the form at https://forms.illinois.edu/sec/1713398, unpacked to {root}/Flicker8k_Dataset",
        _KARPATHY,
    ),
}  # fmt: skip


def check_captions(name: str, root: str | Path, tfds_dir: str = "") -> Found:
    """Checks each form of a data set. It is complete if one form has every split and every image."""
    lines, problems, complete = [], [], False
    for form in FORMS if name == "coco" else ("karpathy",):
        folder = tfds_dir if form == "tfds" and tfds_dir else root
        try:
            found = [open_captions(folder, split, dataset=name, form=form).protocol for split in SPLITS]
        except (ValueError, OSError) as error:
            problems.append(f"{form}: {error}")
            continue
        complete = True
        counts = (f"{f['split']} {f['images']:,} images, {f['captions']:,} captions" for f in found)
        lines.append(f"{form}: {'; '.join(counts)}")
    if not complete:
        problems += [line.format(name=name, root=root) for line in SOURCES[name]]
    return Found(name, complete, lines, problems)
