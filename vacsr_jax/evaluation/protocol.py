"""What a result on a test set depends on besides the model; it is stated with every result."""

from __future__ import annotations

from ml_collections import ConfigDict

from vacsr_jax.data.source import Source, caption_pairs
from vacsr_jax.evaluation.loaded_model import LoadedModel

TIES = "among equal scores a wrong item ranks first"


def describe_protocol(config: ConfigDict, source: Source, split: str, model: LoadedModel) -> dict[str, str | int]:
    """Describes the data, split, counts, choice of captions, preprocessing, ground truth and treatment of ties.

    `cut captions` are longer than the model's context and lose their end. A model on embeddings has neither.
    """
    counts = {"images": len(source), "captions": sum(map(len, source.captions))}
    data = {"dataset": config.data.name, "split": split, **counts, **getattr(source, "protocol", {})}
    vision, tokenizer = model.model.towers_config.vision, model.tokenizer
    if tokenizer is not None:
        data["preprocess"] = "pcmepp" if vision.resize == "squash" else "clip"  # the model's; the config may differ
        data["training images"] = config.get("augment", {}).get("images", "none")
    known = "labels; under true/ the drawn truth" if hasattr(source, "relevance") else "labels"
    data["ground truth"] = config.data.ground_truth or known
    if tokenizer is not None:
        data["cut captions"] = int((tokenizer.lengths(caption_pairs(source)[0]) > tokenizer.context_length).sum())
    return data | {"ties": TIES}


def protocol_line(protocol: dict[str, str | int]) -> str:
    return "protocol: " + "; ".join(f"{name} {value}" for name, value in protocol.items())
