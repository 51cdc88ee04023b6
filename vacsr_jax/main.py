"""The command line: `vacsr train | evaluate | embed | export`, each with --help."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import importlib.machinery
import importlib.util
import logging
import os
import shlex
import sys
from pathlib import Path

TRAIN_EXAMPLE = """example:
  vacsr train --config=configs/scenes.py --workdir=runs/scenes
  vacsr train --config=configs/scenes.py:noise=0.5 --workdir=runs/noisy --config.optim.lr=5e-4 --config.seed=1

Any field of the config can be set: --config.train.steps=3000. The same command again resumes a run that was stopped.
Writes metrics.jsonl (curves), checkpoints/ (best and last), evaluation.json and report.html into the workdir."""

EVALUATE_EXAMPLE = """example:
  vacsr evaluate --workdir=runs/scenes --split=test --out=metrics.json
  vacsr evaluate --workdir=runs/emoji --config.data.path=other_pictures --split=all"""

EMBED_EXAMPLE = """example:
  vacsr embed --model=runs/scenes --images=my_pictures --texts=captions.txt --out=embeddings.npz
  vacsr embed --model=openai/clip-vit-base-patch32 --images=my_pictures --out=embeddings.npz

Writes an npz with embeddings float32 [n, d], ids [n] (file names, and the line numbers of texts) and modality [n]
(image or text)."""

EXPORT_EXAMPLE = """example:
  vacsr export --workdir=runs/scenes --out=exported
  python -c "import vacsr_jax; print(vacsr_jax.load('exported').score(['a.png'], ['a red square']))"

Writes model.safetensors, config.json and tokenizer/; loading them needs no Orbax."""


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. A user's mistake ends with one message and exit status 2, never with a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    options.command = shlex.join(["vacsr", *arguments])
    quiet()
    try:
        options.run(options, overrides)
    except KeyboardInterrupt:
        sys.exit("\nvacsr: stopped; the same command again goes on from the last checkpoint")
    except (ValueError, OSError) as error:
        print(f"vacsr {options.verb}: {error}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a verb, and the `--config...` arguments that ml_collections reads."""
    parser = argparse.ArgumentParser(prog="vacsr", description="Variational similarity of images and texts.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="train | evaluate | embed | export")

    def verb(name, run, summary, example):
        sub = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    train = verb("train", run_train, "Train the model of a config and judge it.", TRAIN_EXAMPLE)
    train.add_argument("--config", metavar="FILE[:ARGS]", help="a config file, and its argument string", required=True)
    train.add_argument("--workdir", help="folder of the run; made if absent", required=True)

    evaluate = verb("evaluate", run_evaluate, "Judge a trained model on a split of its data.", EVALUATE_EXAMPLE)
    evaluate.add_argument("--workdir", help="folder of a run", required=True)
    evaluate.add_argument("--split", default="test", help="a split of the data (default: test); all: everything")
    evaluate.add_argument("--checkpoint", default="best", choices=("best", "last"))
    evaluate.add_argument("--out", help="JSON file for the metrics")

    embed = verb("embed", run_embed, "Embed pictures and texts.", EMBED_EXAMPLE)
    embed.add_argument("--model", help="a workdir, an exported folder, or a Hugging Face CLIP", required=True)
    embed.add_argument("--images", help="folder of pictures, searched with its subfolders")
    embed.add_argument("--texts", help="text file, one text a line")
    embed.add_argument("--out", help="npz file to write", required=True)

    export = verb("export", run_export, "Write a trained model as safetensors and JSON.", EXPORT_EXAMPLE)
    export.add_argument("--workdir", help="folder of a run", required=True)
    export.add_argument("--out", help="folder to write", required=True)
    export.add_argument("--checkpoint", default="best", choices=("best", "last"))

    options, rest = parser.parse_known_args(arguments)
    takes_config = options.verb in ("train", "evaluate")
    unknown = [a for a in rest if not (takes_config and a.startswith("--config."))]
    if unknown:
        near = difflib.get_close_matches(unknown[0].split("=")[0], _flags(verbs.choices[options.verb]))
        hint = f" (did you mean {near[0]}?)" if near else ""
        verbs.choices[options.verb].error(f"unknown argument {unknown[0]!r}{hint}; fields go as --config.FIELD=VALUE")
    return options, rest


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def load_config(path: str, overrides: list[str]):
    """The locked config of a file with `--config.field=value` applied.

    Raises:
      ValueError: if the file or its argument is wrong, a field is unknown (near misses are named), or a value has
        another type than the field.
    """
    name, colon, argument = path.partition(":")
    file = Path(name)
    if not file.is_file():
        raise ValueError(f"--config: no file {str(file)!r}; give a config file such as configs/scenes.py")
    with importable(file.resolve().parent.parent, Path.cwd()):
        config = run_config_file(file, [argument] if colon else [])
    return apply_overrides(config, overrides)


def run_config_file(file: Path, arguments: list[str]):
    """What `get_config(*arguments)` of a file returns, locked; ValueError, with the file's name, if it fails."""
    loader = importlib.machinery.SourceFileLoader("config", str(file))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("config", loader))
    try:
        loader.exec_module(module)
        return module.get_config(*arguments).lock()
    except Exception as error:  # a config is anyone's code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--config: {file}: {kind}{error}") from error


def apply_overrides(config, overrides: list[str]):
    """`--config.field=value` applied to a locked config; see `load_config`."""
    from absl import flags
    from ml_collections import config_flags

    known = list(_leaves(config))
    for override in overrides:
        name, equals, _ = override.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{override}: expected --config.FIELD=VALUE")
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.5) or [n for n in known if name.split(".")[-1] in n]
            raise ValueError(f"config has no field {name!r}; did you mean {' or '.join(near or sorted(known))}?")
    values = flags.FlagValues()
    arguments = ["vacsr", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, ValueError, TypeError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    return values["config"].value


def _leaves(config, prefix: str = ""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@contextlib.contextmanager
def importable(*folders: Path):
    """Lets a config import its neighbours (`from configs import default`), whatever the working directory."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def quiet() -> None:
    """Libraries' information that no user asked for stays out of the terminal; warnings of ours remain."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)


# The commands are imported when they run: --help and a misspelled field answer at once.


def run_train(options: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(options.config, overrides)
    from vacsr_jax import commands

    commands.train(config, Path(options.workdir), options.command)


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import commands

    override = functools.partial(apply_overrides, overrides=overrides)
    commands.evaluate_workdir(options.workdir, options.split, options.checkpoint, options.out, override)


def run_embed(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import commands, load

    count = commands.embed(load(options.model), options.images, options.texts, Path(options.out))
    print(f"{options.out}: {count} embeddings")


def run_export(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import load

    load(options.workdir, checkpoint=options.checkpoint).save(options.out)
    print(f"{options.out}: model.safetensors, config.json, tokenizer/")


if __name__ == "__main__":
    main()
