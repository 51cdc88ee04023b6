"""Captions to token ids: byte-pair encoding trained on one's own captions, or a Hugging Face CLIP's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from vacsr_jax.atomic_files import read_json

TOKENIZER, LENGTHS = "tokenizer.json", "vacsr_tokenizer.json"
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
BYTES = 256
LONGEST = 2**20  # tokens of a row; more is a damaged file


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Callable from texts to ids; each row is start, the text, end, pads.

    Attributes:
      backend: the encoder, which adds start and end itself, and neither pads nor truncates.
      context_length: length of every row.
      start_id, end_id, pad_id: ids of the special tokens; CLIP's own pads with its end token.
    """

    backend: tokenizers.Tokenizer
    context_length: int
    start_id: int
    end_id: int
    pad_id: int

    def __post_init__(self):
        sizes = {
            "context_length": (3, LONGEST),
            **dict.fromkeys(("start_id", "end_id", "pad_id"), (0, self.vocab_size - 1)),
        }
        for name, (least, most) in sizes.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                hint = " (start, word, end)" if name == "context_length" else ", an id of the vocabulary"
                raise ValueError(f"{name}: got {value!r:.60}, expected {least} at least and {most} at most{hint}")

    @property
    def vocab_size(self) -> int:
        """How many ids there are; rows hold ids below it."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Ids, int32 [n, context_length]. A text that is too long loses its tail but not the end token.

        Raises:
          ValueError: if `texts` is one str, or if an entry is no str or blank; the message names its index.
        """
        check_texts(texts)
        room = self.context_length
        rows = [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]
        rows = [ids if len(ids) <= room else [*ids[: room - 1], self.end_id] for ids in rows]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.full((len(rows), room), self.pad_id, np.int32)
        tokens[np.arange(room) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int32)
        return tokens

    def save(self, folder: str | Path) -> None:
        """Writes two json files that `load_tokenizer` reads back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / TOKENIZER))
        names = ("context_length", "start_id", "end_id", "pad_id")
        lengths = {name: getattr(self, name) for name in names}
        (folder / LENGTHS).write_text(json.dumps(lengths, indent=2) + "\n")


def check_texts(texts: Sequence[object]) -> None:
    """Raises ValueError, naming the index, unless every entry is a str with something in it."""
    if isinstance(texts, str):
        raise ValueError(f"texts: got one str, {texts[:40]!r}; expected a sequence of them")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"texts[{i}]: got {text!r}, expected a str that is not blank; drop or fix it")


def train_tokenizer(texts: Sequence[str], *, vocab_size: int, context_length: int) -> Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) of lower-cased `texts`, over bytes: any text can be encoded.

    The same texts give the same ids. Pad, start and end are ids 0, 1, 2. `vocab_size` is an upper bound:
    training stops when no pair of tokens occurs twice.

    Raises:
      ValueError: if there are no texts, one is blank, or `vocab_size` has no room for the bytes.
    """
    check_texts(texts)
    specials = [PAD, START, END]
    if not len(texts):
        raise ValueError("texts: got none; a tokenizer is trained on captions")
    if vocab_size < BYTES + len(specials):
        raise ValueError(f"vocab_size: got {vocab_size}, expected {BYTES + len(specials)} at least")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    # The space before a word belongs to its tokens: "in to" and "into" stay apart.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    pad_id, start_id, end_id = (backend.token_to_id(token) for token in specials)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start_id), (END, end_id)]
    )
    return Tokenizer(backend, context_length, start_id, end_id, pad_id)


def load_tokenizer(folder_or_hub_name: str | Path, context_length: int | None = None) -> Tokenizer:
    """The tokenizer of a folder `Tokenizer.save` wrote, or of a Hugging Face CLIP (folder or hub name).

    `context_length` overrides the stored one, and is needed where a Hugging Face tokenizer states none.

    Raises:
      ValueError: if nothing can be loaded, no length is known, or the tokenizer adds no start and end token.
    """
    folder = Path(folder_or_hub_name)
    if not (folder / LENGTHS).is_file():
        return load_hf_tokenizer(str(folder_or_hub_name), context_length)
    try:
        lengths = read_json(folder / LENGTHS)
        if context_length is not None:
            lengths["context_length"] = context_length
        backend = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        backend.no_truncation()
        backend.no_padding()
        return Tokenizer(backend, **lengths)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{folder}: the tokenizer cannot be read: {error}") from error


def load_hf_tokenizer(name: str, context_length: int | None) -> Tokenizer:
    """See `load_tokenizer`."""
    try:
        # Without the last word transformers would ask at the terminal whether code that came with the files may run.
        loaded = import_auto_tokenizer().from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # its files may say anything: whatever is made of them fails in its own way
        raise ValueError(
            f"{name!r}: expected a folder with {LENGTHS}, or the folder or hub name of a CLIP: {error}"
        ) from error
    # transformers writes 1e30 where no length is known.
    if context_length is None and loaded.model_max_length > 1_000_000:
        raise ValueError(f"{name!r} does not say its context length; pass context_length (CLIP's is 77)")
    ids = (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    backend = getattr(loaded, "backend_tokenizer", None)
    probe = [] if backend is None else backend.encode("a").ids
    if None in ids or len(probe) < 3 or (probe[0], probe[-1]) != ids[:2]:
        raise ValueError(f"{name!r}: expected a CLIP tokenizer, which adds a start and an end token")
    if probe[1] in ids:  # what transformers makes of a folder without a tokenizer: every text is unknown
        raise ValueError(f"{name!r}: the tokenizer knows no words; its files (tokenizer.json) are missing")
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, context_length or loaded.model_max_length, *ids)


def import_auto_tokenizer() -> type:
    """transformers' AutoTokenizer, imported late (1 s) and without its advice to install PyTorch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from transformers import AutoTokenizer
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return AutoTokenizer
