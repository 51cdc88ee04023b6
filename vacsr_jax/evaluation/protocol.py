"""What a result on a test set depends on besides the model; it is stated with every result."""

from __future__ import annotations

from ml_collections import ConfigDict

from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.evaluation.loaded_model import LoadedModel
from vacsr_jax.towers.base import IMAGENET_PIXEL_MEAN, VisionConfig

TIES = "among equal scores a wrong item ranks first"


def describe_protocol(config: ConfigDict, source: Source, split: str, model: LoadedModel) -> dict[str, str | int]:
    """Describes the data, split, counts, choice of captions, preprocessing, ground truth and treatment of ties.

    `cut captions` are longer than the model's context and lose their end. A model on embeddings has neither.
    """
    counts = {"images": len(source), "captions": sum(map(len, source.captions))}
    data = {"dataset": config.data.name, "split": split, **counts, **getattr(source, "protocol", {})}
    vision, tokenizer = model.model.towers_config.vision, model.tokenizer
    if tokenizer is not None:
        data["preprocess"] = preprocessing_of(vision)  # the model's; the config may differ
        data["training images"] = config.get("augment", {}).get("images", "none")
    known = "labels; under true/ the drawn truth" if hasattr(source, "relevance") else "labels"
    data["ground truth"] = config.data.ground_truth or known
    if tokenizer is not None:
        data["cut captions"] = int((tokenizer.lengths(caption_pairs(source)[0]) > tokenizer.context_length).sum())
    return data | {"ties": TIES}


def preprocessing_of(vision: VisionConfig) -> str:
    """ "clip": the centre square; "pcmepp": squashed, with ImageNet's statistics; "squash": with others (SigLIP)."""
    if vision.resize != "squash":
        return "clip"
    return "pcmepp" if vision.pixel_mean == IMAGENET_PIXEL_MEAN else "squash"


def protocol_line(protocol: dict[str, str | int]) -> str:
    return "protocol: " + "; ".join(f"{name} {value}" for name, value in protocol.items())
