"""Reads COCO's captions_{train,val}2014.json, divided into splits by the lists of caption ids that PCME publishes."""

from __future__ import annotations

from pathlib import Path

from vacsr_jax.atomic_files import read_json
from vacsr_jax.data.captions.source import Record
from vacsr_jax.data.source import below
from vacsr_jax.safe_npz import read_npy

YEARS = ("train2014", "val2014")  # parts of COCO, and names of their image folders
LISTS = {"train": "train", "restval": "restval", "val": "dev", "test": "test"}  # Karpathy's split -> name in the file


def find_file(root: Path, name: str) -> Path:
    """Finds a file in the root or one of its folders. Raises ValueError if it is in neither."""
    found = [path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_file()]
    if not found:
        raise ValueError(f"{root}: found no {name}, neither there nor in its folders")
    return found[0]


def read_annotations(root: Path, names: tuple[str, ...]) -> list[Record]:
    """Returns the images of Karpathy's splits `names`, with exactly the captions of the id lists, in their order.

    Raises:
      ValueError: for a missing or damaged file, or an id without an annotation.
    """
    captions, images = _read_captions(root)
    records = []
    for name in names:
        file = find_file(root, f"coco_{LISTS[name]}_ids.npy")
        by_image: dict[int, list[int]] = {}
        for i in read_ids(file):
            if i not in captions:
                raise ValueError(f"{file}: caption id {i} is in none of the captions_*2014.json below {root}")
            if captions[i][0] not in images:
                raise ValueError(
                    f"{file}: caption id {i} belongs to image {captions[i][0]!r}, which is in none of the "
                    "captions_*2014.json"
                )
            by_image.setdefault(captions[i][0], []).append(i)
        records += [
            Record(str(image), name, [captions[i][1] for i in ids], ids, root / images[image])
            for image, ids in by_image.items()
        ]
    return records


def read_ids(file: Path) -> list[int]:
    """Reads a vector of integers from an npy file."""
    ids = read_npy(file)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{file}: got {ids.dtype} {list(ids.shape)}, expected a vector of integers")
    return ids.tolist()


def _read_captions(root: Path) -> tuple[dict[int, tuple[int, str]], dict[int, Path]]:
    """Caption id -> image id and text; image id -> path below the root."""
    captions: dict[int, tuple[int, str]] = {}
    images: dict[int, Path] = {}
    for year in YEARS:
        file = find_file(root, f"captions_{year}.json")
        try:
            content = read_json(file)
            captions |= {c["id"]: (int(c["image_id"]), c["caption"]) for c in content["annotations"]}
            images |= {int(i["id"]): below(year, i["file_name"]) for i in content["images"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file}: expected COCO's images and annotations ({error!r})") from None
    return captions, images
