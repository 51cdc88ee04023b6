"""Turns captions into token ids: byte-pair encoding trained on the captions, or a pretrained model's tokenizer."""

from __future__ import annotations

import json
import logging
import os
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from vacsr_jax.atomic_files import read_json

TOKENIZER, LENGTHS = "tokenizer.json", "vacsr_tokenizer.json"
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
BYTES = 256
LONGEST = 2**20  # tokens per row; a file that says more is damaged
PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical(text: str) -> str:
    """Lower case, without ASCII punctuation, words separated by one space: what SigLIP was trained on.

    From big_vision, evaluators/proj/image_text/prompt_engineering.py, as in transformers' `SiglipTokenizer`.
    """
    return without_punctuation(text.lower())


def without_punctuation(text: str) -> str:
    """`canonical` without lower case."""
    return re.sub(r"\s+", " ", text.translate(PUNCTUATION)).strip()


# What happens to a text before the encoder sees it.
CLEAN: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "lower": lambda text: " ".join(text.split()).lower(),
    "whitespace": lambda text: " ".join(text.split()),
    "canonical": canonical,
    "punctuation": without_punctuation,
}


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Maps texts to ids. Each row holds start (if there is one), the text, end, and padding.

    Attributes:
      backend: the encoder. It adds start and end, and neither pads nor truncates.
      context_length: length of every row.
      start_id, end_id, pad_id: ids of the special tokens. CLIP pads with its end token. SigLIP has no start: None.
      clean: a key of `CLEAN`.
    """

    backend: tokenizers.Tokenizer
    context_length: int
    start_id: int | None
    end_id: int
    pad_id: int
    clean: str = ""

    def __post_init__(self):
        if not isinstance(self.clean, str) or self.clean not in CLEAN:
            raise ValueError(f"clean: got {self.clean!r:.60}, expected one of {', '.join(map(repr, CLEAN))}")
        sizes = {
            "context_length": (3, LONGEST),
            **dict.fromkeys(("start_id", "end_id", "pad_id"), (0, self.vocab_size - 1)),
        }
        for name, (least, most) in sizes.items():
            value = getattr(self, name)
            if name == "start_id" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                hint = " (start, word, end)" if name == "context_length" else ", an id of the vocabulary"
                raise ValueError(f"{name}: got {value!r:.60}, expected {least} to {most}{hint}")

    @property
    def vocab_size(self) -> int:
        """The number of ids; all ids are below it."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def check_table(self, rows: int) -> None:
        """Raises ValueError unless a table of token embeddings with this many rows has one for every id."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        names = sorted(token for token, i in vocabulary.items() if i >= rows)
        if names:
            shown = f"{', '.join(map(repr, names[:3]))}{' ...' if len(names) > 3 else ''}"
            raise ValueError(
                f"the tokenizer does not belong to this tower: it has ids up to {max(vocabulary.values())}, the tower "
                f"{rows} token embeddings, none for {shown}; use the tokenizer that the weights were trained with"
            )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns ids, int32 [n, context_length]. A text that is too long is cut but keeps the end token.

        Raises:
          ValueError: if `texts` is a single str, or an entry is not a str or is blank; the message gives its index.
        """
        room = self.context_length
        rows = self._encode(texts)
        rows = [ids if len(ids) <= room else [*ids[: room - 1], self.end_id] for ids in rows]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.full((len(rows), room), self.pad_id, np.int32)
        tokens[np.arange(room) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int32)
        return tokens

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """The number of tokens of each text before it is cut, with start and end: int [n]."""
        return np.array([len(ids) for ids in self._encode(texts)], int)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        check_texts(texts)
        try:
            cleaned = [CLEAN[self.clean](text) for text in texts]
            return [encoding.ids for encoding in self.backend.encode_batch_fast(cleaned)]
        except TypeError:  # what tokenizers says of half a surrogate pair
            for i, text in enumerate(texts):
                if not text.isascii() and text.encode("utf-8", "ignore").decode("utf-8") != text:
                    raise ValueError(
                        f"texts[{i}]: got {text!r}, which holds half a character; drop or fix it"
                    ) from None
            raise

    def save(self, folder: str | Path) -> None:
        """Writes two JSON files that `load_tokenizer` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / TOKENIZER))
        names = ("context_length", "start_id", "end_id", "pad_id", *(("clean",) if self.clean else ()))
        lengths = {name: getattr(self, name) for name in names}
        (folder / LENGTHS).write_text(json.dumps(lengths, indent=2) + "\n")


def report_cut(tokenizer: Tokenizer, texts: Sequence[str], what: str) -> int:
    """Returns how many texts are longer than the context and lose their end, and logs one line if there are any.

    Two texts that differ only after the cut become the same to the model.
    """
    lengths, room = tokenizer.lengths(texts), tokenizer.context_length
    cut = int((lengths > room).sum())
    if cut:
        logging.getLogger(__name__).warning(
            "%s of %s %s are longer than the context of %d tokens and are cut (the longest has %d); shorten them, or "
            "train a model with model.context_length=%d",
            *(f"{cut:,}", f"{len(texts):,}", what, room, lengths.max(), lengths.max()),
        )
    return cut


def check_texts(texts: Sequence[object]) -> None:
    """Raises ValueError, with the index, unless every entry is a str that is not blank."""
    if isinstance(texts, str):
        raise ValueError(f"texts: got one str, {texts[:40]!r}; expected a sequence of str")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            advice = "decode it: text.decode('utf-8')" if isinstance(text, bytes) else "drop or fix it"
            raise ValueError(f"texts[{i}]: got {text!r}, expected a str that is not blank; {advice}")


def train_tokenizer(texts: Sequence[str], *, vocab_size: int, context_length: int) -> Tokenizer:
    """Trains a byte-pair encoding (Sennrich et al. 2016) on lower-cased `texts`.

    It works on bytes, so any text can be encoded. Equal texts give equal ids. Pad, start and end are ids 0, 1, 2.
    `vocab_size` is an upper bound: training stops when no pair of tokens occurs twice.

    Raises:
      ValueError: if there are no texts, a text is blank, or `vocab_size` is too small for the 256 bytes.
    """
    check_texts(texts)
    specials = [PAD, START, END]
    if not len(texts):
        raise ValueError("texts: got none; a tokenizer is trained on captions")
    if vocab_size < BYTES + len(specials):
        raise ValueError(f"vocab_size: got {vocab_size}, expected at least {BYTES + len(specials)}")
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
    vocabulary = backend.get_vocab(with_added_tokens=True)
    pad_id, start_id, end_id = (vocabulary[token] for token in specials)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start_id), (END, end_id)]
    )
    return Tokenizer(backend, context_length, start_id, end_id, pad_id)


def load_tokenizer(
    folder_or_hub_name: str | Path, context_length: int | None = None, *, kind: str = "clip", clean: str = ""
) -> Tokenizer:
    """Loads a tokenizer from a folder written by `Tokenizer.save`, or from a pretrained model.

    Args:
      folder_or_hub_name: where it is.
      context_length: replaces the stored one. It is required if a pretrained model's tokenizer has none.
      kind: of a pretrained model's tokenizer. "clip" adds a start and an end token. "siglip" adds an end token; its
        files must be in the folder. "bert" begins with a class token and ends with a pad (CLIPA).
      clean: of a pretrained model's tokenizer; see `CLEAN`.

    Raises:
      ValueError: if nothing can be loaded, the length is unknown, or the tokenizer does not add those tokens.
    """
    folder = Path(folder_or_hub_name)
    if not (folder / LENGTHS).is_file():
        if kind == "clip":
            return load_hf_tokenizer(str(folder_or_hub_name), context_length, clean)
        from vacsr_jax.data.pretrained_tokenizer import load_bert_tokenizer, load_siglip_tokenizer

        load = load_siglip_tokenizer if kind == "siglip" else load_bert_tokenizer
        return load(folder, context_length, clean)
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


def load_hf_tokenizer(name: str, context_length: int | None, clean: str = "") -> Tokenizer:
    """See `load_tokenizer`."""
    try:
        # Without trust_remote_code=False transformers asks at the terminal whether to run code from the files.
        loaded = import_auto_tokenizer().from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the files are untrusted and can fail in many ways
        raise ValueError(
            f"{name!r}: expected a folder with {LENGTHS}, or the folder or hub name of a CLIP: {error}"
        ) from error
    # transformers uses 1e30 for an unknown length.
    if context_length is None and loaded.model_max_length > 1_000_000:
        raise ValueError(f"{name!r} does not say its context length; pass context_length (CLIP's is 77)")
    ids = (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id)
    backend = getattr(loaded, "backend_tokenizer", None)
    probe = [] if backend is None else backend.encode("a").ids
    if backend is None or None in ids or len(probe) < 3 or (probe[0], probe[-1]) != ids[:2]:
        raise ValueError(f"{name!r}: expected a CLIP tokenizer, which adds a start and an end token")
    if probe[1] in ids:  # transformers builds this from a folder without a tokenizer: every text is unknown
        raise ValueError(f"{name!r}: the tokenizer knows no words; its files (tokenizer.json) are missing")
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, context_length or loaded.model_max_length, *ids, clean)


def import_auto_tokenizer() -> Any:
    """Imports transformers' AutoTokenizer, which takes 1 s, without its advice to install PyTorch."""
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
