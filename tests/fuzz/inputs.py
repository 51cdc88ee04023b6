"""Makes bad files from good ones, by structure (JSON, npy, npz, safetensors, pictures) and by bytes.

The functions return hypothesis strategies of bytes. A structural change keeps the file well formed, so that it passes
the parser and reaches the code behind it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib

import numpy as np
from hypothesis import strategies as st

PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch executed\x85R."  # runs a command when it is loaded
DEPTH = 100_000
NAMES = ("../outside/secret.png", "/etc/passwd", "link.png", "linked/secret.png", "..", ".", "~", "no\0end", "x" * 5000)
TEXTS = (*NAMES, "", " ", "\ud800", "a\nb", "nan", "{}", "%s", "\u202e\u2028", "pickle", "NaN", "1e400", "-1")
NUMBERS = (0, -1, 1, 2, 3, 0.5, -0.0, 1e308, 2**31, 2**32 - 1, 2**63, -(2**63) - 1, 10**30, float("nan"), float("inf"))


class Raw(str):
    """JSON text that is written unchanged."""


RAW = tuple(map(Raw, ("9" * 400, "9" * 5000, "[" * DEPTH, "[" * DEPTH + "]" * DEPTH, "1e999", "-", "{", "NaN")))


class Pairs(list):
    """A JSON object as (key, value) pairs, so that a key can occur twice."""


def dumps(value) -> str:
    """Writes a tree of `from_json` as JSON; halves of surrogate pairs become escapes."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumps(x)}" for key, x in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumps, value)) + "]"
    return json.dumps(value)


def from_json(text: str):
    return json.loads(text, object_pairs_hook=Pairs)


def places(value, path=()):
    """Yields the path of every value in a tree; the keys of an object are the numbers of its pairs."""
    yield path
    items = [x for _, x in value] if isinstance(value, Pairs) else value if isinstance(value, list) else ()
    for i, x in enumerate(items):
        yield from places(x, (*path, i))


def at(value, path):
    for i in path:
        value = value[i][1] if isinstance(value, Pairs) else value[i]
    return value


def hostile_values():
    """Strategy of values of unexpected types and sizes."""
    small = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
    drawn = st.one_of(st.integers(), st.floats(), st.text(st.characters(), max_size=6))
    nested = st.recursive(
        small, lambda x: st.lists(x, max_size=3) | st.lists(st.tuples(st.text(max_size=3), x), max_size=3).map(Pairs)
    )
    return st.one_of(small, st.sampled_from(NAMES), drawn, nested, st.sampled_from(RAW))


@st.composite
def broken_trees(draw, value):
    """Draws a JSON tree with one to three values replaced, removed, doubled, added, renamed, or moved."""
    value = from_json(dumps(value))  # a copy
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))
        path = draw(st.sampled_from(paths))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(hostile_values())
            continue
        parent, i = at(value, path[:-1]), path[-1]
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "double", "add", "rename", "move")))
        if change == "replace":
            a_text = isinstance(at(value, path), str) and draw(st.integers(0, 3))
            new = draw(st.sampled_from(NAMES) | st.sampled_from(TEXTS) if a_text else hostile_values())
            parent[i] = (parent[i][0], new) if isinstance(parent, Pairs) else new
        elif change == "remove":
            del parent[i]
        elif change == "double":
            parent.insert(i, parent[i])
        elif change == "add":
            new = draw(hostile_values())
            parent.append((draw(st.sampled_from(TEXTS)), new) if isinstance(parent, Pairs) else new)
        elif change == "rename" and isinstance(parent, Pairs):
            parent[i] = (draw(st.sampled_from(TEXTS)), parent[i][1])
        elif change == "move":
            new = from_json(dumps(at(value, draw(st.sampled_from(paths)))))
            parent[i] = (parent[i][0], new) if isinstance(parent, Pairs) else new
        if any(isinstance(at(value, p), Raw) for p in places(value)):
            break  # raw text cannot be parsed again
    return value


def broken_json(blob: bytes):
    encodings = st.sampled_from(("utf-8",) * 9 + ("utf-8-sig", "utf-16"))
    texts = broken_trees(from_json(blob.decode())).map(dumps)
    return st.tuples(texts, encodings).map(lambda x: x[0].encode(x[1]))


def broken_json_lines(blob: bytes):
    lines = blob.decode().splitlines()

    def put(broken):
        i, tree = broken
        return "\n".join([*lines[:i], dumps(tree), *lines[i + 1 :]]).encode()

    numbers = st.integers(0, len(lines) - 1)
    return numbers.flatmap(lambda i: st.tuples(st.just(i), broken_trees(from_json(lines[i])))).map(put)


@st.composite
def broken_bytes(draw, blob: bytes):
    """Draws a file that is cut, flipped, extended, repeated, spliced or zeroed at up to four places."""
    for _ in range(draw(st.integers(1, 4))):
        n = len(blob)
        start = draw(st.integers(0, max(n - 1, 0)))
        end = min(n, start + draw(st.sampled_from((1, 2, 4, 8, 64, 1000))))
        change = draw(st.sampled_from(("flip", "flip", "set", "cut", "drop", "insert", "repeat", "splice", "zero")))
        if change == "flip" and n:
            blob = blob[:start] + bytes([blob[start] ^ (1 << draw(st.integers(0, 7)))]) + blob[start + 1 :]
        elif change == "set" and n:
            blob = blob[:start] + draw(st.binary(min_size=1, max_size=8)) + blob[start + 8 :]
        elif change == "cut":
            blob = blob[:start]
        elif change == "drop":
            blob = blob[:start] + blob[end:]
        elif change == "insert":
            blob = blob[:start] + draw(st.binary(max_size=32)) + blob[start:]
        elif change == "repeat":
            blob = blob[:end] + blob[start:end] * draw(st.sampled_from((1, 2, 50))) + blob[end:]
        elif change == "splice":
            to = draw(st.integers(0, n))
            blob = blob[:to] + blob[start:end] + blob[to:]
        elif change == "zero":
            blob = blob[:start] + bytes(end - start) + blob[end:]
    return blob


# Arrays.

DESCRIPTIONS = (
    "<f4",
    "<f2",
    "<f8",
    "<i8",
    "|O",
    "<U3",
    "<U1000000000",
    "|S4",
    "|V8",
    "<M8[ns]",
    "<c8",
    "|b1",
    "f",
    "x",
)
SHAPES = ("(3, 4)", "(3,)", "()", "(0, 4)", "(-1, 4)", "(1000000000000,)", "(9223372036854775807, 2)", "3", "(3.5,)")
ODD_SHAPES = ("None", "'abc'", "(" * 60 + ")" * 60, "(True, 2)", f"({10**30},)", "[3]", "__import__('os')")
SPECIAL = (np.nan, np.inf, 0.0, 1e38, -1.0)


@st.composite
def broken_npy(draw, blob: bytes):
    """Draws an npy file whose header is wrong about its numbers, or whose numbers are a pickle."""
    array = np.load(io.BytesIO(blob))
    description = repr(draw(st.sampled_from((array.dtype.str, *DESCRIPTIONS))))
    shape = draw(st.sampled_from((repr(array.shape), *SHAPES, *ODD_SHAPES)))
    order = draw(st.sampled_from(("False", "False", "True", "None")))
    header = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    content = draw(st.sampled_from((array.tobytes(), array.tobytes(), array.tobytes()[:-1], b"", PICKLE)))
    length = draw(st.sampled_from((len(header),) * 9 + (0, 65535)))
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + header.encode() + content


@st.composite
def broken_arrays(draw, array: np.ndarray):
    """Draws the array with another type, shape or content, as an npy file."""
    changes = ["type", "shape", "shorten", "longer", "empty", "scalar"]
    changes += ["special", "special", "row"] if array.dtype.kind == "f" else ["double", "blank", "text"]
    change = draw(st.sampled_from(changes))
    if change == "type":
        array = np.resize(array, array.shape).astype(draw(st.sampled_from(("S4", "U2", "O", "V4"))))
    elif change == "shape":
        array = array.reshape(draw(st.sampled_from(((-1,), (1, -1), (-1, 1, 1)))))
    elif change in ("shorten", "longer", "empty", "scalar"):
        array = {"shorten": array[:-1], "longer": np.concatenate([array, array[:1]]), "empty": array[:0]}.get(
            change, array.reshape(-1)[0]
        )
    elif change in ("special", "row"):
        row = draw(st.integers(0, len(array) - 1))
        array = array.copy()
        array[row, slice(None) if change == "row" else 0] = draw(st.sampled_from(SPECIAL))
    else:
        array = array.astype("U64")
        new = {"double": array[-1], "blank": draw(st.sampled_from(("", " ")))}.get(change)
        array[0] = draw(st.sampled_from(TEXTS)).replace("\0", "")[:60] if new is None else new
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@st.composite
def broken_npz(draw, blob: bytes):
    """Draws an npz with an array replaced, missing, repeated, renamed, or compressed in another way."""
    with zipfile.ZipFile(io.BytesIO(blob)) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    i = draw(st.integers(0, len(members) - 1))
    name, member = members[i]
    change = draw(st.sampled_from(("header", "array", "array", "array", "bytes", "remove", "double", "rename", "add")))
    if change == "header":
        members[i] = name, draw(broken_npy(member))
    elif change == "array":
        members[i] = name, draw(broken_arrays(np.load(io.BytesIO(member))))
    elif change == "bytes":
        members[i] = name, draw(broken_bytes(member))
    elif change == "remove":
        del members[i]
    elif change == "double":
        members.append(draw(st.sampled_from(members)))
    else:
        new = draw(st.sampled_from(("../outside/x.npy", "/x.npy", "model_id.npy", "answers.npy", "x", "x" * 9000, "")))
        members = [*members, (new, member)] if change == "add" else [*members[:i], (new, member), *members[i + 1 :]]
    buffer, packing = io.BytesIO(), draw(st.sampled_from((0, 0, 8, 12, 14)))
    with zipfile.ZipFile(buffer, "w", packing) as file:
        for name, member in members:
            file.writestr(zipfile.ZipInfo(name), member, packing)
    return buffer.getvalue()


@st.composite
def broken_safetensors(draw, blob: bytes):
    """Draws a safetensors file with a wrong header: types, shapes, overlapping or outlying offsets, or the length."""
    size = struct.unpack("<Q", blob[:8])[0]
    header, content = blob[8 : 8 + size], blob[8 + size :]
    if draw(st.booleans()):
        tree = from_json(header.decode())
        name, fields = draw(st.sampled_from([pair for pair in tree if pair[0] != "__metadata__"]))
        changes = {
            "dtype": st.sampled_from(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "O", "", 3)),
            "shape": st.sampled_from(([-1, 4], [2**40, 2**40], [], [0], [1.5], "3", None, [2**63, 2])),
            "data_offsets": st.sampled_from(([0, 4], [-4, 0], [0, 2**60], [8, 0], [2**63, 2**63 + 4], [], None)),
        }
        key = draw(st.sampled_from(list(changes)))
        new = Pairs((k, draw(changes[key]) if k == key else v) for k, v in fields)
        header = dumps(Pairs((k, new if k == name else v) for k, v in tree)).encode()
    else:
        header = draw(broken_json(header))
    length = draw(st.sampled_from((len(header),) * 8 + (0, 1, len(header) + 1, 2**31, 2**60, 2**63, 2**64 - 1)))
    return struct.pack("<Q", length) + header + content


# Pictures.


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 1, colour: int = 0, interlace: int = 0, rows: bytes = b"") -> bytes:
    """Makes a PNG with this header and valid checksums; without `rows` it has no pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def forged_pngs():
    """Strategy of PNGs with valid checksums and an invalid header."""
    sides = st.sampled_from((0, 1, 7, 50_000, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
    numbers = st.integers(0, 17)
    rows = st.sampled_from((b"", b"\0" * 10, b"\5" * 100))
    return st.builds(png, sides, sides, numbers, st.integers(0, 7), st.integers(0, 2), rows)


def broken(name: str, blob: bytes):
    """Strategy of (how it was changed, bytes) for a file, by the ending of its name."""
    by_ending = {
        ".json": broken_json,
        ".jsonl": broken_json_lines,
        ".npy": broken_npy,
        ".npz": broken_npz,
        ".safetensors": broken_safetensors,
        ".png": lambda _: forged_pngs(),
    }
    ending = name[name.rfind(".") :]
    by_bytes = st.tuples(st.just("bytes"), broken_bytes(blob))
    if ending not in by_ending:
        return by_bytes
    structure = st.tuples(st.just("structure"), by_ending[ending](blob))
    return st.one_of(structure, structure, by_bytes)
