"""Loads pretrained tokenizers that are not CLIP's: SigLIP's, without a start token, and BERT's (for CLIPA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, processors

from vacsr_jax.atomic_files import read_json
from vacsr_jax.data.sentencepiece import read_sentencepiece
from vacsr_jax.data.tokenizer import TOKENIZER, Tokenizer

PIECES, SETTINGS, SPECIAL = "spiece.model", "tokenizer_config.json", "special_tokens_map.json"
LENGTH = 64  # of SigLIP's texts, of both generations


def load_siglip_tokenizer(folder: Path, context_length: int | None, clean: str = "") -> Tokenizer:
    """Loads SigLIP's tokenizer: the text, then the end token, then pads.

    The first generation has spiece.model (or its tokenizer.json); texts are made canonical, and padded with the end
    token. SigLIP 2 has Gemma's tokenizer.json; texts are put in lower case, which the older files do not say.

    Args:
      folder: where the files are.
      context_length: of a row; None: 64.
      clean: how texts are cleaned, where that is known; "": as the generation was trained.

    Raises:
      ValueError: if there is no tokenizer, or it has no end token.
    """
    settings = read_settings(folder)
    name = str(settings.get("tokenizer_class") or "")
    first = name.startswith("Siglip") and not name.startswith("Siglip2")
    if (folder / PIECES).is_file() and (first or not (folder / TOKENIZER).is_file()):
        backend, first = read_sentencepiece(folder / PIECES), True
    else:
        backend = read_backend(folder, PIECES)
        if name.startswith(("Gemma", "Siglip2")):
            own = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    if first:
        clean = clean or ("canonical" if settings.get("do_lower_case", True) else "punctuation")
    end = special_token(settings, "eos_token", "</s>" if first else "<eos>")
    pad = special_token(settings, "pad_token", end if first else "<pad>")
    end_id, pad_id = (token_id(backend, folder, token) for token in (end, pad))
    start_id = backend.token_to_id(special_token(settings, "bos_token", "<bos>"))
    if not ends_with(backend, end_id):
        backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, end_id)])
    has_start = start_id is not None and backend.encode("a").ids[0] == start_id
    return Tokenizer(backend, context_length or LENGTH, start_id if has_start else None, end_id, pad_id, clean)


def load_bert_tokenizer(folder: Path, context_length: int | None, clean: str = "") -> Tokenizer:
    """Loads CLIPA's tokenizer: BERT's class token, the text, then pads, of which the first stands for the separator.

    Raises:
      ValueError: if there is no tokenizer, or it has no class or pad token, or the length is unknown.
    """
    settings = read_settings(folder)
    backend = read_backend(folder, "vocab.txt (converted by transformers)")
    start, pad = special_token(settings, "cls_token", "[CLS]"), special_token(settings, "pad_token", "[PAD]")
    start_id, pad_id = (token_id(backend, folder, token) for token in (start, pad))
    if context_length is None:
        raise ValueError(f"{folder} does not say its context length; pass context_length")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {pad}", special_tokens=[(start, start_id), (pad, pad_id)]
    )
    return Tokenizer(backend, context_length, start_id, pad_id, pad_id, clean)


def read_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, and special_tokens_map.json where that says nothing."""
    settings: dict[str, Any] = {}
    for file in (folder / SPECIAL, folder / SETTINGS):
        values = read_json(file) if file.is_file() else {}
        if not isinstance(values, dict):
            raise ValueError(f"{file}: got {type(values).__name__}, expected a JSON object")
        settings |= {name: value for name, value in values.items() if value is not None}
    return settings


def read_backend(folder: Path, other: str) -> tokenizers.Tokenizer:
    """The encoder of a folder's tokenizer.json, which neither pads nor truncates."""
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{folder}: no {TOKENIZER} and no {other}; fetch the tokenizer's files with the weights")
    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{folder / TOKENIZER} cannot be read as a tokenizer ({error}); fetch it again") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_token(settings: dict[str, Any], name: str, otherwise: str) -> str:
    """A special token by its name in the settings, where it is a text or an object with a content."""
    value = settings.get(name, otherwise)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else otherwise


def token_id(backend: tokenizers.Tokenizer, folder: Path, token: str) -> int:
    """The id of a token that must exist."""
    found = backend.token_to_id(token)
    if found is None:
        raise ValueError(f"{folder}: the tokenizer has no token {token!r}; its files do not belong together")
    return found


def ends_with(backend: tokenizers.Tokenizer, end_id: int) -> bool:
    """Whether the encoder adds the end token by itself."""
    return backend.encode("a").ids[-1:] == [end_id]
