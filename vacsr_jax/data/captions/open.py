"""Opens a split of a caption data set in any of its forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from vacsr_jax.data.captions.coco_annotations import read_annotations
from vacsr_jax.data.captions.karpathy import find_split_file, read_karpathy
from vacsr_jax.data.captions.known import KNOWN, PER_IMAGE
from vacsr_jax.data.captions.prepared import find_prepared, read_prepared
from vacsr_jax.data.captions.source import (
    CaptionSource,
    Record,
    check_records,
    count_differences,
    first_captions,
    missing_files,
    split_names,
)

FORMS = ("karpathy", "annotations", "tfds")


def open_captions(
    root: str | Path, split: str | None, *, dataset: str = "", form: str = "karpathy", per_image: int = PER_IMAGE
) -> CaptionSource:
    """Opens one split (train, validation, test; None: all) of a caption data set.

    Args:
      root: the folder that holds the files. For the form tfds, TFDS's data_dir or the prepared folder.
      dataset: a name of `KNOWN` (coco, ...); the split must then have the published numbers of images and captions. ""
        for your own data in the same form, or for a part of these data sets.
      form: karpathy: `dataset_NAME.json` beside the images. annotations: COCO's `captions_*2014.json` and lists of
        caption ids. tfds: `coco_captions` as array_record.
      per_image: how many captions of each image to keep, the first ones in the data set's order; 0: all.

    Raises:
      ValueError: if something is missing or malformed, or the numbers differ from the published ones.
    """
    root, names = Path(root).expanduser(), split_names(split)
    if dataset not in ("", *KNOWN):
        raise ValueError(f"data.dataset: got {dataset!r}, expected {', '.join(KNOWN)}, or '' for your own data")
    where, records, files = _read(root, names, dataset, form)
    check_records(records, names, where)
    records = first_captions([r for r in records if r.split in names], per_image)
    if dataset and (differences := count_differences(records, names, dataset, per_image)):
        raise ValueError(
            f"{where}: not {dataset}'s published split: {'; '.join(differences)}. For a part of it, set dataset ''"
        )
    if missing := missing_files(records):
        hint = f"; `vacsr data check {dataset} --root={root}` tells where to get them" if dataset else ""
        raise ValueError(f"{len(missing):,} of {len(records):,} images are missing, such as {missing[0]}{hint}")
    n_captions = sum(len(r.captions) for r in records)
    protocol: dict[str, str | int] = {
        "dataset": dataset or f"{where.parent.name}/{where.name}",
        "form": form,
        "split": split or "all",
        "images": len(records),
    }
    protocol |= {"captions": n_captions, "captions per image": f"first {per_image}" if per_image else "all"}
    return CaptionSource(
        ids=[r.id for r in records],
        captions=[r.captions for r in records],
        caption_ids=[r.caption_ids for r in records],
        files=files or [r.file for r in records if r.file is not None],
        protocol=protocol,
    )


def _read(root: Path, names, dataset: str, form: str) -> tuple[Path, list[Record], Sequence[BinaryIO] | None]:
    """Returns where the records were found, the records, and their images unless those are the records' own files."""
    if form not in FORMS:
        raise ValueError(f"data.form: got {form!r}, expected one of {', '.join(FORMS)}")
    if form == "karpathy":
        file = find_split_file(root, dataset)
        return file, read_karpathy(file), None
    if dataset not in ("coco", ""):
        raise ValueError(f"data.form: got {form!r} for {dataset}, expected karpathy")
    if form == "annotations":
        return root, read_annotations(root, names), None
    folder = find_prepared(root)
    return folder, *read_prepared(folder, names)
