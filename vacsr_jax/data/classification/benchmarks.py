"""Records of the image classification benchmarks of the few-shot literature, and of a user's own data set.

The layout on disk is CoOp's (Zhou et al. 2022): one folder per data set under a common root.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vacsr_jax.data.image_folder import find_tables

SINGLE = "a photo of a {}."
TEMPLATES = ("single", "per-dataset")

# Ways to make the table of (path, label); see `tables`.
KINDS = ("zhou-json", "aircraft-txt", "folder-by-key", "index-folders", "image-folder")


@dataclass(frozen=True)
class Tfds:
    """The same images, as prepared by tensorflow_datasets.

    Attributes:
      builder: name, config and version, as a path below a data_dir.
      path: pattern of an example's path, from its text features, `label` (its class name in TFDS) and `split`.
      splits: TFDS split -> value of `split` in `path`. All of these splits are read.
    """

    builder: str
    path: str
    splits: Mapping[str, str]


@dataclass(frozen=True)
class Benchmark:
    """Facts about a data set that are known before it is opened.

    Attributes:
      name: the name in configs and commands.
      folder: its folder below the root.
      kind: how its table is made; one of KINDS.
      images: the folder below `folder` that the paths of the table are relative to.
      manifest: the file below `folder` that lists images or classes.
      template: the text of a class, from CoOp's zero-shot table.
      splits: for class folders, our split -> the folder below `images` that holds them ("": `images` itself).
      classes: number of classes; None for a user's own data.
      counts: number of images per split; empty for a user's own data.
      own_classes: whether the label space is only the classes that have images, renumbered (ImageNet-A and -R: 200).
      plain_rgb: whether to decode as CoOp does, by PIL's convert("RGB"), ignoring EXIF orientation and transparency.
      source: where to get it.
      dead: official links that no longer work.
    """

    name: str
    folder: str
    kind: str
    images: str = ""
    manifest: str = ""
    template: str = SINGLE
    splits: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    own_classes: bool = False
    plain_rgb: bool = True
    tfds: Tfds | None = None
    source: str = ""
    dead: str = ""


def _counts(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


SPLIT_FILES = "github.com/linzhiqiu/cross_modal_adaptation, folder splits; or CoOp's DATASETS.md"
CLASS_NAMES = "CoOp's DATASETS.md; lines '<wnid> <name>' in wnid order, with CLIP's names"

_BENCHMARKS = (
    Benchmark(
        "imagenet", "imagenet", "folder-by-key", "images", "classnames.txt",
        splits={"train": "train", "test": "val"}, classes=1000, counts={"train": 1_281_167, "test": 50_000},
        tfds=Tfds("imagenet2012/5.1.0", "{split}/{label}/{file_name}", {"train": "train", "validation": "val"}),
        source="image-net.org (registration): ILSVRC2012 train and val, both in wnid folders",
    ),
    Benchmark(
        "caltech101", "caltech-101", "zhou-json", "101_ObjectCategories", "split_zhou_Caltech101.json",
        classes=100, counts=_counts(4128, 1649, 2465),
        tfds=Tfds("caltech101/3.0.2", "{label}/{image/file_name}", {"train": "", "test": ""}),
        source="data.caltech.edu/records/20086", dead="vision.caltech.edu/Image_Datasets/Caltech101",
    ),
    Benchmark(
        "oxford_pets", "oxford_pets", "zhou-json", "images", "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.", classes=37, counts=_counts(2944, 736, 3669),
        tfds=Tfds("oxford_iiit_pet/4.0.0", "{file_name}", {"train": "", "test": ""}),
        source="robots.ox.ac.uk/~vgg/data/pets",
    ),
    Benchmark(
        "stanford_cars", "stanford_cars", "zhou-json", "", "split_zhou_StanfordCars.json",
        classes=196, counts=_counts(6509, 1635, 8041),
        tfds=Tfds("cars196/2.1.0", "cars_{split}/{id}.jpg", {"train": "train", "test": "test"}),
        source="copies named in github.com/pytorch/vision/issues/7545",
        dead="ai.stanford.edu/~jkrause/cars (since 2023)",
    ),
    Benchmark(
        "oxford_flowers", "oxford_flowers", "zhou-json", "jpg", "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.", classes=102, counts=_counts(4093, 1633, 2463),
        tfds=Tfds("oxford_flowers102/2.1.1", "{file_name}", {"train": "", "validation": "", "test": ""}),
        source="robots.ox.ac.uk/~vgg/data/flowers/102",
    ),
    Benchmark(
        "food101", "food-101", "zhou-json", "images", "split_zhou_Food101.json",
        "a photo of {}, a type of food.", classes=101, counts=_counts(50_500, 20_200, 30_300),
        tfds=Tfds("food101/2.1.0", "{id}.jpg", {"train": "", "validation": ""}),
        source="data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
    ),
    Benchmark(
        "fgvc_aircraft", "fgvc_aircraft", "aircraft-txt", "images", "variants.txt",
        "a photo of a {}, a type of aircraft.", classes=100, counts=_counts(3334, 3333, 3333),
        source="robots.ox.ac.uk/~vgg/data/fgvc-aircraft (2013b; its data/ folder, renamed)",
    ),
    Benchmark(
        "sun397", "sun397", "zhou-json", "SUN397", "split_zhou_SUN397.json",
        classes=397, counts=_counts(15_880, 3970, 19_850),
        source="copies named in github.com/KaiyangZhou/CoOp/issues/90", dead="vision.princeton.edu (since 2025)",
    ),
    Benchmark(
        "dtd", "dtd", "zhou-json", "images", "split_zhou_DescribableTextures.json",
        "{} texture.", classes=47, counts=_counts(2820, 1128, 1692),
        tfds=Tfds("dtd/3.0.1", "{file_name}", {"train": "", "validation": "", "test": ""}),
        source="robots.ox.ac.uk/~vgg/data/dtd (r1.0.1)",
    ),
    Benchmark(
        "eurosat", "eurosat", "zhou-json", "2750", "split_zhou_EuroSAT.json",
        "a centered satellite photo of {}.", classes=10, counts=_counts(13_500, 5400, 8100),
        tfds=Tfds("eurosat/rgb/2.0.0", "{label}/{filename}", {"train": ""}),
        source="madm.dfki.de/files/sentinel/EuroSAT.zip",
    ),
    Benchmark(
        "ucf101", "ucf101", "zhou-json", "UCF-101-midframes", "split_zhou_UCF101.json",
        "a photo of a person doing {}.", classes=101, counts=_counts(7639, 1898, 3783),
        source="UCF-101-midframes.zip, on Google Drive, linked in CoOp's DATASETS.md",
    ),
    Benchmark(
        "imagenet_v2", "imagenetv2", "index-folders", "imagenetv2-matched-frequency-format-val", "classnames.txt",
        splits={"test": ""}, classes=1000, counts={"test": 10_000},
        tfds=Tfds("imagenet_v2/matched-frequency/3.0.0", "{file_name}", {"test": ""}),
        source="huggingface.co/datasets/vaishaal/ImageNetV2", dead="its S3 bucket",
    ),
    Benchmark(
        "imagenet_sketch", "imagenet-sketch", "folder-by-key", "images", "classnames.txt",
        splits={"test": ""}, classes=1000, counts={"test": 50_889},
        tfds=Tfds("imagenet_sketch/1.0.0", "{file_name}", {"test": ""}),
        source="github.com/HaohanWang/ImageNet-Sketch",
    ),
    Benchmark(
        "imagenet_a", "imagenet-adversarial", "folder-by-key", "imagenet-a", "classnames.txt",
        splits={"test": ""}, classes=200, counts={"test": 7500}, own_classes=True,
        tfds=Tfds("imagenet_a/0.1.0", "{label}/{file_name}", {"test": ""}),
        source="github.com/hendrycks/natural-adv-examples",
    ),
    Benchmark(
        "imagenet_r", "imagenet-rendition", "folder-by-key", "imagenet-r", "classnames.txt",
        splits={"test": ""}, classes=200, counts={"test": 30_000}, own_classes=True,
        tfds=Tfds("imagenet_r/0.2.0", "{file_name}", {"test": ""}),
        source="github.com/hendrycks/imagenet-r",
    ),
)  # fmt: skip

BENCHMARKS = {benchmark.name: benchmark for benchmark in _BENCHMARKS}


def find_benchmark(name: str, root: str | Path) -> Benchmark:
    """Finds the benchmark of that name, or makes a record of the user's own data in `root/name`.

    Own data is an ImageFolder (its metadata has a `label` in each row) or one folder per class, either under
    train/, val/ and test/ or divided by a hash of the file names. `classnames.txt` orders and names the classes.

    Raises:
      ValueError: if there is neither; the message suggests similar names.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    folder = Path(root) / name
    if name and folder.is_dir() and find_tables(folder):
        return Benchmark(name, name, "image-folder", plain_rgb=False)
    if name and folder.is_dir():
        divided = {split: split for split in ("train", "val", "test") if (folder / split).is_dir()}
        splits = divided if "train" in divided else {"hashed": ""}
        return Benchmark(name, name, "folder-by-key", "", "classnames.txt", splits=splits, plain_rgb=False)
    near = difflib.get_close_matches(name, BENCHMARKS, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? It is" if near else "expected"
    raise ValueError(f"data set {name!r}: {hint} one of {', '.join(BENCHMARKS)}, or your own folder {folder}")
