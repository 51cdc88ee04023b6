"""Writes a caption data set in each form of COCO into a folder. `entries` are those of Karpathy's file."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def draw_entries(splits: dict[str, int], captions: int = 5) -> list[dict]:
    """Makes entries of Karpathy's file with ids that ascend neither by image nor by caption."""
    entries = []
    for split, n in splits.items():
        year = "train2014" if split == "train" else "val2014"
        for _ in range(n):
            i = len(entries)
            cocoid = 1000 - 7 * i
            texts = [
                {"raw": f"picture {i} said {k} times", "sentid": 50 * i + (3 * k) % 7, "imgid": i}
                for k in range(captions)
            ]
            names = {"filepath": year, "filename": f"COCO_{year}_{cocoid:012d}.jpg"}
            sentids = [text["sentid"] for text in texts]
            entries.append(
                {"imgid": i, "cocoid": cocoid, "split": split, "sentids": sentids, "sentences": texts, **names}
            )
    return entries  # fmt: skip


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((30 + number % 5, 20), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(root: Path, entries: list[dict]) -> None:
    for entry in entries:
        path = root / entry["filepath"] / entry["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(entry["imgid"]))


def write_karpathy(root: Path, entries: list[dict], name: str = "coco") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"dataset_{name}.json").write_text(json.dumps({"dataset": name, "images": entries}))


def write_annotations(root: Path, entries: list[dict]) -> None:
    """Writes captions_*2014.json with all captions, and id lists of the first five per image."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for year in ("train2014", "val2014"):
        mine = [e for e in entries if e["filepath"] == year]
        captions = [
            {"id": s["sentid"], "image_id": e["cocoid"], "caption": s["raw"]} for e in mine for s in e["sentences"]
        ]
        images = [{"id": e["cocoid"], "file_name": e["filename"]} for e in mine]
        content = {"images": images, "annotations": sorted(captions, key=lambda c: c["id"])}
        (root / "annotations" / f"captions_{year}.json").write_text(json.dumps(content))
    for split, name in {"train": "train", "restval": "restval", "val": "dev", "test": "test"}.items():
        ids = [s["sentid"] for e in entries if e["split"] == split for s in e["sentences"][:5]]
        (root / "karpathy_ids").mkdir(exist_ok=True)
        np.save(root / "karpathy_ids" / f"coco_{name}_ids.npy", np.array(ids, np.int64))  # fmt: skip


def prepare(data_dir: Path, entries: list[dict], encoded) -> Path:
    """Writes TFDS's coco_captions as array_record without TensorFlow; `encoded(entry)` gives an image's bytes."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
    }

    with tfds.core.registered.skip_registration():  # two test files of one process may prepare the set

        class CocoCaptions(tfds.core.GeneratorBasedBuilder):
            __module__ = "small_coco"  # a package's name would make TFDS look for importlib_resources
            VERSION = tfds.core.Version("1.1.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in dict.fromkeys(e["split"] for e in entries)}

            def _generate_examples(self, split):
                for e in (e for e in entries if e["split"] == split):
                    captions = [{"id": s["sentid"], "text": s["raw"]} for s in e["sentences"]]
                    yield (
                        e["cocoid"],
                        {
                            "image": io.BytesIO(
                                encoded(e)
                            ),  # a file object is stored unchanged; an array would be encoded again
                            "image/filename": e["filename"],
                            "image/id": e["cocoid"],
                            "captions": captions,
                        },
                    )

    builder = CocoCaptions(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    folder = data_dir / "coco_captions" / "2014" / "1.1.0"  # where TFDS's own builder, which has configs, puts it
    folder.parent.mkdir()
    return Path(builder.data_path).rename(folder)
