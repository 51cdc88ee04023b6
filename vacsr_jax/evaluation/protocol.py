"""What a result on a test set depends on besides the model; it is stated with every result."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vacsr_jax.data.source import Source
from vacsr_jax.towers.base import VisionConfig

TIES = "among equal scores a wrong item ranks first"


def describe_protocol(config: ConfigDict, source: Source, split: str, vision: Any) -> dict[str, str | int]:
    """Describes the data, split, counts, choice of captions, preprocessing, ground truth and treatment of ties.

    `vision` is the config of the model's image tower, or of its image embeddings.
    """
    counts = {"images": len(source), "captions": sum(map(len, source.captions))}
    data = {"dataset": config.data.name, "split": split, **counts, **getattr(source, "protocol", {})}
    if isinstance(vision, VisionConfig):
        data["preprocess"] = "pcmepp" if vision.resize == "squash" else "clip"  # the model's; the config may differ
        data["training images"] = config.get("augment", {}).get("images", "none")
    known = "labels; under true/ the drawn truth" if hasattr(source, "relevance") else "labels"
    data["ground truth"] = config.data.ground_truth or known
    return data | {"ties": TIES}


def protocol_line(protocol: dict[str, str | int]) -> str:
    return "protocol: " + "; ".join(f"{name} {value}" for name, value in protocol.items())
