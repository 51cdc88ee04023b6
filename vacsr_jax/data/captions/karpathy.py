"""Reads Karpathy's split files: dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json."""

from __future__ import annotations

from pathlib import Path

from vacsr_jax.atomic_files import read_json
from vacsr_jax.data.captions.source import Record
from vacsr_jax.data.source import below

# Image folders in the archives of the three data sets.
IMAGE_FOLDERS = ("", "images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Images")


def find_split_file(root: Path, dataset: str) -> Path:
    """Finds dataset_NAME.json in a folder, or the only dataset_*.json if no name is given.

    Raises:
      ValueError: if there is no such file, or several.
    """
    files = sorted(root.glob(f"dataset_{dataset or '*'}.json"))
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise ValueError(f"{root}: expected one dataset_{dataset or '*'}.json (Karpathy's split file), found {found}")
    return files[0]


def read_karpathy(file: Path) -> list[Record]:
    """Returns all images of a split file, with paths below its folder.

    An image's id is its COCO id if it has one, else its file name. Captions keep the file's order and `sentid`.

    Raises:
      ValueError: for a file of another form; the message names the first bad entry.
    """
    try:
        entries = read_json(file)["images"]
        if not isinstance(entries, list):
            raise TypeError(f"images is a {type(entries).__name__}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected an object with a list of images ({error!r})") from None
    records, places = [], []
    for number, entry in enumerate(entries):
        try:
            records.append(_record(entry))
            places.append(below(entry.get("filepath", ""), entry["filename"]))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{file}: images[{number}]: expected filename, split and sentences with raw and sentid ({error!r})"
            ) from None
    folder = _image_folder(file.parent, places)
    return [r._replace(file=folder / place) for r, place in zip(records, places, strict=True)]


def _record(entry: dict) -> Record:
    sentences = entry["sentences"]
    if not isinstance(entry["split"], str):
        raise TypeError(f"split is {entry['split']!r}")
    return Record(
        id=str(entry.get("cocoid", entry["filename"])),
        split=entry["split"],
        captions=[s["raw"] for s in sentences],
        caption_ids=[int(s["sentid"]) for s in sentences],
    )


def _image_folder(root: Path, places: list[Path]) -> Path:
    """Returns the first of IMAGE_FOLDERS that holds the first image, or the root if none does."""
    folders = [root / name for name in IMAGE_FOLDERS]
    return next((f for f in folders if places and (f / places[0]).is_file()), root)
