"""Writes a tiny EuroSAT in its two real layouts: CoOp's folder with a split file, and TFDS's array_record."""

import io
import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COLOURS = {"AnnualCrop": (200, 30, 30), "Forest": (30, 160, 40), "Highway": (90, 90, 90), "River": (40, 60, 210)}
NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Highway": "Highway or Road",
}  # the other classes have the names of their folders
SPLITS = ("train",) * 6 + ("val",) * 2 + ("test",) * 4  # of each class's pictures


def jpeg(colour, seed):
    """Returns the bytes of a noisy picture."""
    noise = np.random.default_rng(seed).integers(0, 60, (40, 36, 3))
    buffer = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def pictures():
    """Returns path -> JPEG bytes, 12 of each class."""
    return {
        f"{name}/{name}_{i}.jpg": jpeg(colour, 100 * label + i)
        for label, (name, colour) in enumerate(COLOURS.items())
        for i in range(len(SPLITS))
    }


class Eurosat(tfds.core.GeneratorBasedBuilder):
    """Prepares data with the features of TFDS's builder, without TensorFlow."""

    __module__ = "tiny_eurosat"  # TFDS takes a dotted name for a package that is installed
    name = "eurosat"
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="rgb", version=VERSION),)

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=list(COLOURS)),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for path, encoded in pictures().items():
            label, name = path.split("/")
            # A file object: TFDS would need TensorFlow to open a path.
            yield name, {"image": io.BytesIO(encoded), "label": label, "filename": name}


def write_eurosat(root):
    """Writes `root`/eurosat in CoOp's layout and `root`/tfds as array_record."""
    split = {"train": [], "val": [], "test": []}
    for i, (path, encoded) in enumerate(pictures().items()):
        file = root / "eurosat/2750" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded)
        name = file.parent.name
        split[SPLITS[i % len(SPLITS)]].append([path, list(COLOURS).index(name), NAMES.get(name, name)])
    (root / "eurosat/split_zhou_EuroSAT.json").write_text(json.dumps(split))
    Eurosat(data_dir=root / "tfds", file_format="array_record").download_and_prepare()
