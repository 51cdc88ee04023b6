"""Bad command lines of every verb, and bad fields of configs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

from tests.fuzz import models
from tests.fuzz import targets as files
from tests.fuzz.inputs import TEXTS as ALL_TEXTS

ROOT = Path(__file__).parents[2]
# Users may name any file of theirs, so no name on a command line counts as leading out.
TEXTS = tuple(x for x in ALL_TEXTS if not any(word in x for word in ("outside", "passwd", "link", "..", "~")))

# Good values of options; the others only get numbers and words.
GOOD = {
    "config": ("config.py", "config.py:method=sigmoid,noise=0.2"),
    "workdir": ("run", "export"),
    "model": ("export",),
    "rerank": ("export",),
    "images": ("pictures",),
    "image": ("pictures/p1.jpg",),
    "texts": ("texts.txt",),
    "text": ("a red circle",),
    "queries": ("queries.npz", "texts.txt"),
    "fit": ("queries.npz",),
    "documents": ("bank.npz",),
    "stats": ("stats.json",),
    "index": ("index",),
    "manifest": ("split_zhou_Own.json",),
    "root": ("DATA",),
    "dataset": ("own", "labelled"),
    "split": ("test", "test_new"),
    "k": ("2",),
    "prior": ("image=0.5",),
    "similarity": ("S.npy",),
    "image_ids": ("i.txt",),
    "caption_ids": ("c.json",),
    "ground_truth": (".",),
}
WRITTEN = ("out", "workdir", "html")  # no names outside: a command writes where it is told to
PLACES = ("out/x", "out/x.npz", "pictures", "texts.txt", "texts.txt/below", "no\0end", "", "x" * 300, "\ud800", "..txt")
VALUES = (
    *TEXTS,
    "nan=nan",
    "0",
    "1",
    "1e9",
    "99999999999999999999",
    "pictures",
    "texts.txt",
    "broken.npz",
    "()",
    "a,b",
)
ODD = ("--help", "--k=", "-x", "--", "--config.seed=x", "--config.", "extra", "--=")
NUMBERS = ("nan", "-1", "0", "1", "2", "0.5", "inf", "1e30", "99999999999999999999", "(1,2)", "()", "True", "None")
WORDS = (
    "",
    "no",
    "'",
    "[",
    "('a','b')",
    "__import__('os').mkdir('executed')",
    "a" * 5000,
    "\ud800",
    "pickle",
    "bfloat16",
)
FIELDS = (*NUMBERS, *WORDS)
SMALL = [f"--config.data.{name}_size=24" for name in ("train", "validation", "test")] + ["--config.train.batch_size=8"]
CONFIGS = {
    "raises.py": "raise RuntimeError('no')",
    "exits.py": "import sys\nsys.exit(3)",
    "syntax.py": "def get_config(:",
    "empty.py": "",
    "number.py": "get_config = 3",
    "returns.py": "def get_config():\n    return 3",
    "deep.py": "def get_config():\n    return get_config()",
    "bytes.py": "\ufffe\0",
    "own.py": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 0})",
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of every verb, by its words."""
    from vacsr_jax.cli.verbs import Verbs
    from vacsr_jax.main import VERBS

    found = {}

    def walk(group: Verbs) -> None:
        for parser in group._parsers.choices.values():
            if verb := parser.get_default("verb"):
                found[verb] = parser
        for inner in group._groups.values():
            walk(inner)

    top = Verbs(argparse.ArgumentParser())
    for module in VERBS:
        module.register(top)
    walk(top)
    return found


@st.composite
def command_lines(draw, parsers: dict[str, argparse.ArgumentParser], names: tuple[str, ...]):
    """Draws arguments of one verb: options missing, repeated or unknown, with good, bad or no values."""
    verb = draw(st.sampled_from(names))
    arguments = verb.split()
    for action in parsers[verb]._actions:
        if not action.option_strings or action.dest == "help":
            if action.dest == "name":
                arguments.append(draw(st.sampled_from(("coco", "own", "eurosat", "classification", *TEXTS))))
            continue
        wanted = 0.95 if action.required else 0.4
        if draw(st.floats(0, 1)) > wanted:
            continue
        good = GOOD.get(action.dest, ("out/x",) if action.dest == "out" else VALUES)
        bad = PLACES if action.dest in WRITTEN else (*VALUES, *(f"config.py:{x}" for x in FIELDS[:6]), *CONFIGS)
        value = draw(st.sampled_from(good if draw(st.integers(0, 9)) < 6 else bad))
        flag = action.option_strings[0]
        arguments += [flag] if action.nargs == 0 else [f"{flag}={value}"]
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        odd = st.sampled_from(("--help", "--k=", "-x", "--", "--config.seed=x", "--config.", "extra", "--=", *TEXTS))
        arguments.insert(draw(st.integers(0, len(arguments))), draw(odd))
    return arguments


@st.composite
def overrides(draw, names: tuple[str, ...]):
    """Draws `vacsr train` with a small config and one to three fields set to odd values."""
    chosen = draw(st.lists(st.sampled_from((*names, "optim", "nothing", "data.")), min_size=1, max_size=3))
    values = (draw(st.sampled_from(FIELDS) | st.text(max_size=4)) for _ in chosen)
    fields = [f"--config.{name}={value}" for name, value in zip(chosen, values, strict=True)]
    return ["train", "--config=config.py", "--workdir=out/run", *SMALL, *fields]


@dataclass(frozen=True)
class CommandLines:
    """A target with bad command lines and good files."""

    name: str
    strategy: Callable[[], st.SearchStrategy]

    def write(self, here: Path, outside: Path) -> None:
        everything = (files.write_embeddings, files.write_classes, files.write_scores, files.write_image_folder)

        def make(folder: Path) -> None:
            for one in everything:
                one(folder)
            files.write_image_folder(folder / "pictures")
            models.write_export(folder / "export")
            (folder / "texts.txt").write_text("a red circle\na blue square\n")
            (folder / "broken.npz").write_bytes(b"PK\x03\x04 broken")
            text = (ROOT / "configs" / "scenes.py").read_text()
            (folder / "config.py").write_text(text)
            for name, content in CONFIGS.items():
                (folder / name).write_text(content)
            from vacsr_jax.main import main

            main(["index", f"--documents={folder / 'bank.npz'}", f"--out={folder / 'index'}"])

        files.Target(self.name, make, make).write(here, outside)
        stop_before_training()
        os.chdir(here)

    def changes(self, here: Path):
        return self.strategy()

    def apply(self, here: Path, change) -> tuple[str, Callable[[], None]]:
        return f"vacsr {' '.join(change)!r:.300}", lambda: None

    def read(self, here: Path, change) -> None:
        from vacsr_jax.main import main

        main(list(change))


def stop_before_training() -> None:
    """Makes every command that would train end, as a success, when its first step is traced."""
    import jax

    from vacsr_jax.data.loader import batches
    from vacsr_jax.image_text import abstract_params
    from vacsr_jax.training import loop, run
    from vacsr_jax.training.sharding import shard_batch

    def trace(run, state, step, *, mesh, **_):
        data = batches(run.pairs, batch_size=run.config.train.batch_size, seed=run.config.seed, start_step=0)
        batch = next(data)
        data.close()
        batch.pop("index")
        jax.eval_shape(step, state, shard_batch(batch, mesh))
        raise SystemExit(0)

    def zeros(model, seed):
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params(model))

    # `patch` fails if the name it replaces has moved, where an assignment would quietly let commands train.
    patch.object(loop, "take_steps", trace).start()
    patch.object(run, "init_params", zeros).start()


def arguments_of_every_verb():
    parsers = verbs()
    return command_lines(parsers, tuple(parsers))


def fields_of_configs():
    from configs import default

    def leaves(config, prefix=""):
        for name, value in config.items():
            yield from leaves(value, f"{prefix}{name}.") if hasattr(value, "items") else [prefix + name]

    return overrides(tuple(leaves(default.get_config())))


COMMAND_TARGETS = (
    CommandLines("arguments", arguments_of_every_verb),
    CommandLines("config fields", fields_of_configs),
)
