"""Reports which files of a known caption data set were found, which are missing, and where to get them."""

from __future__ import annotations

from pathlib import Path

from vacsr_jax.data.captions.known import KNOWN
from vacsr_jax.data.captions.open import FORMS, open_captions
from vacsr_jax.data.captions.source import SPLITS
from vacsr_jax.data.classification.check import Found


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
        problems += [line.format(name=name, root=root) for line in KNOWN[name].get]
    return Found(name, complete, lines, problems)
