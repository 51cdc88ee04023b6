"""Real CLIP features as the files that `vacsr standardize` reads: every caption asks for its image.

`python -m experiments.mixed_search.coco --features=FOLDER --out=runs/mixed/coco`; the folder holds features.npz with
`image`, `text` [n, d], `coco_image_id`, `caption_id` [n]. The documents are all images and all captions; the caption
that asks is excluded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vacsr_jax.data.embeddings import write_embeddings


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.mixed_search.coco", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--features", required=True, help="folder with features.npz")
    parser.add_argument("--out", required=True, help="folder for queries.npz and documents.npz")
    parser.add_argument("--random-init", action="store_true", help="the same network before training, as a control")
    options = parser.parse_args()
    suffix = "_random_init" if options.random_init else ""
    with np.load(Path(options.features) / "features.npz", allow_pickle=False) as file:
        images, texts = file[f"image{suffix}"], file[f"text{suffix}"]
        image_ids, caption_ids = (np.char.add(f"{name}:", file[key].astype(str))
                                  for name, key in (("image", "coco_image_id"), ("caption", "caption_id")))  # fmt: skip
    n, out = len(images), Path(options.out)
    write_embeddings(
        out / "documents.npz",
        embeddings=np.concatenate([images, texts]),
        ids=np.concatenate([image_ids, caption_ids]),
        modality=np.repeat(["image", "text"], n),
    )
    write_embeddings(
        out / "queries.npz",
        embeddings=texts,
        ids=caption_ids,
        modality=np.repeat("text", n),
        answers=image_ids,
        exclude=caption_ids,
    )
    print(f"{out}: queries.npz ({n} captions), documents.npz ({n} images, {n} captions)")


if __name__ == "__main__":
    main()
