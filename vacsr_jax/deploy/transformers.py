"""Writes a model's towers as a folder that transformers and `load` read: a CLIP or a SigLIP of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.towers.hf_save import is_siglip, save_for_transformers

if TYPE_CHECKING:
    from vacsr_jax.pretrained import Pretrained

# What `data.tokenizer.CLEAN` does to a text, as steps that tokenizers can write into tokenizer.json.
SPACES = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
PUNCTUATION = normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")
CLEANING: dict[str, list[Any]] = {
    "": [],
    "whitespace": SPACES,
    "lower": [*SPACES, normalizers.Lowercase()],
    "punctuation": [PUNCTUATION, *SPACES],
    "canonical": [normalizers.Lowercase(), PUNCTUATION, *SPACES],
}


def export_transformers(model: Pretrained, folder: str | Path) -> str:
    """Writes config.json, model.safetensors, preprocessor_config.json and the tokenizer's files.

    The towers are written, with the scale and bias of a cosine in place of those that they were loaded with. Another
    pair model (VACSR) has no place in these files. Returns one sentence on what the folder does not hold; "" if nothing
    is missing.

    Raises:
      ValueError: if neither of the two can express the towers; the message names the reasons.
    """
    config, params = model.model.towers_config, dict(model.params["towers"])
    if model.model.pooling != "clip":
        raise ValueError(f"model.pooling: got {model.model.pooling}, which transformers cannot express; expected clip")
    pair = model.params["pair"]
    is_cosine = set(pair) <= {"log_scale", "bias"} and "log_scale" in pair
    if is_cosine:
        params["logit_scale"] = np.asarray(pair["log_scale"])
        if "logit_bias" in params:
            params["logit_bias"] = np.asarray(pair.get("bias", 0.0), np.float32)
    save_for_transformers(folder, config, params)
    write_tokenizer(model, Path(folder))
    if not is_cosine:
        return f"the pair model ({type(model.model.pair).__name__}) is not in it: the towers alone"
    return "" if is_siglip(config) or "bias" not in pair else "CLIP has no bias: it gives no probability there"


def write_tokenizer(model: Pretrained, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, whose ids are those of the model's own tokenizer."""
    tokenizer = model.tokenizer
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    steps = [*CLEANING[tokenizer.clean], *([] if backend.normalizer is None else [backend.normalizer])]
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    names = {"bos_token": tokenizer.start_id, "eos_token": tokenizer.end_id, "pad_token": tokenizer.pad_id}
    settings: dict[str, Any] = {name: backend.id_to_token(i) for name, i in names.items() if i is not None}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.context_length}
    write_text(folder / "tokenizer.json", json.dumps(json.loads(backend.to_str()), ensure_ascii=False) + "\n")
    write_text(folder / "tokenizer_config.json", to_json(settings | {"padding_side": "right"}))
