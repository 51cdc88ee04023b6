"""Reads SentencePiece's unigram models (spiece.model) into `tokenizers`, without the package sentencepiece."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

UNIGRAM = 1  # of TrainerSpec.model_type
SPACE = "▁"

# The fields that are read, by their numbers in sentencepiece_model.proto.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE = 1, 2
MODEL_TYPE, BYTE_FALLBACK, UNKNOWN_ID = 3, 35, 40
CHARACTERS, PREFIX, COLLAPSE, ESCAPE = 2, 3, 4, 5


def read_sentencepiece(file: str | Path) -> tokenizers.Tokenizer:
    """Returns the encoder of a unigram model. It adds no special tokens, and neither pads nor truncates.

    The text is normalized as the model says, spaces become U+2581, and the most probable segmentation is found.
    Characters that no piece has become one unknown token.

    Raises:
      ValueError: if the file is not a unigram model of SentencePiece.
    """
    try:
        pieces, trainer, normalizer = parse_model(Path(file).read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as a SentencePiece model ({error}); fetch it again") from error
    if trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
        raise ValueError(f"{file}: model_type is {trainer[MODEL_TYPE]}, expected {UNIGRAM} (unigram)")
    unknown = trainer.get(UNKNOWN_ID, 0)
    if not 0 <= unknown < len(pieces):
        raise ValueError(f"{file}: unk_id is {unknown}, expected an id below {len(pieces)}, the number of pieces")
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unknown, bool(trainer.get(BYTE_FALLBACK, 0))))
    steps: list[Any] = []
    if normalizer.get(CHARACTERS):
        steps.append(normalizers.Precompiled(normalizer[CHARACTERS]))
    if normalizer.get(COLLAPSE, 1):
        steps += [normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), "")]
        steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    if normalizer.get(ESCAPE, 1):
        steps.append(normalizers.Replace(" ", SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if normalizer.get(PREFIX, 1) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return backend


def parse_model(data: bytes) -> tuple[list[tuple[str, float]], dict[int, Any], dict[int, Any]]:
    """Returns the pieces with their scores, and the fields of the trainer's and the normalizer's specification."""
    pieces: list[tuple[str, float]] = []
    parts: dict[int, dict[int, Any]] = {TRAINER: {}, NORMALIZER: {}}
    for number, value in fields(data):
        if number == PIECES:
            piece = dict(fields(value))
            pieces.append((piece[PIECE].decode("utf-8"), float(piece.get(SCORE, 0.0))))
        elif number in parts:
            parts[number] |= dict(fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces, parts[TRAINER], parts[NORMALIZER]


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message: (number, value); integers, floats of 32 bits, or bytes."""
    place = 0
    value: Any
    while place < len(data):
        key, place = varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = varint(data, place)
        elif kind == 5:
            (value,) = struct.unpack_from("<f", data, place)
            place += 4
        elif kind in (1, 2):
            length, place = (8, place) if kind == 1 else varint(data, place)
            value = data[place : place + length]
            if len(value) != length:
                raise ValueError("it ends within a field")
            place += length
        else:
            raise ValueError(f"it has a field of the unknown wire type {kind}")
        yield number, value


def varint(data: bytes, place: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, least first, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("it has a number of more than 64 bits")
