"""`vacsr train | evaluate | embed | export`."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from vacsr_jax.config_files import apply_overrides, load_config

TRAIN_EXAMPLE = """example:
  vacsr train --config=configs/scenes.py --workdir=runs/scenes
  vacsr train --config=configs/scenes.py:noise=0.5 --workdir=runs/noisy --config.optim.lr=5e-4 --config.seed=1
  vacsr train --config=configs/base_to_novel.py:dataset=eurosat,root=DATA --workdir=runs/eurosat
  vacsr train --config=configs/scenes.py --workdir=/shared/run --distributed=10.0.0.1:1234,2,0

Any field of the config can be set: --config.train.steps=3000. The same command again resumes a run that was stopped
or killed, bit for bit; SIGTERM and Ctrl-C save first. Several processes: each starts it with --distributed.
Writes metrics.jsonl (curves), checkpoints/ (best, last two), evaluation.json and report.html into the workdir."""

EVALUATE_EXAMPLE = """example:
  vacsr evaluate --workdir=runs/scenes --split=test --out=metrics.json
  vacsr evaluate --workdir=runs/emoji --config.data.path=other_pictures --split=all
  vacsr evaluate --workdir=openai/clip-vit-base-patch32 --config=configs/coco.py:path=COCO

The last one judges a CLIP as it is (zero-shot) on the data of a config."""

EMBED_EXAMPLE = """example:
  vacsr embed --model=runs/scenes --images=my_pictures --texts=captions.txt --out=embeddings.npz
  vacsr embed --model=openai/clip-vit-base-patch32 --images=my_pictures --out=embeddings.npz

Writes an npz with embeddings float32 [n, d], ids [n] (file names, and the line numbers of texts), modality [n]
(image or text) and model_id, which tells models apart."""

EXPORT_EXAMPLE = """example:
  vacsr export --workdir=runs/scenes --out=exported
  python -c "import vacsr_jax; print(vacsr_jax.load('exported').score(['a.png'], ['a red square']))"

Writes model.safetensors, config.json and tokenizer/; loading them needs no Orbax."""


def register(verbs) -> None:
    train = verbs.add("train", run_train, "Train the model of a config and judge it.", TRAIN_EXAMPLE, takes_config=True)
    train.add_argument("--config", metavar="FILE[:ARGS]", help="a config file, and its argument string", required=True)
    train.add_argument("--workdir", help="folder of the run; made if absent", required=True)

    train.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,PROCESSES,INDEX",
        help="one of several processes of a run, with the address of the first; no value on TPU pods and SLURM",
    )

    evaluate = verbs.add(
        "evaluate", run_evaluate, "Judge a trained model on a split of its data.", EVALUATE_EXAMPLE, takes_config=True
    )
    evaluate.add_argument("--workdir", help="folder of a run, an export, or a Hugging Face CLIP", required=True)
    evaluate.add_argument(
        "--config", metavar="FILE[:ARGS]", help="a config whose data to judge it on (default: its own)"
    )
    evaluate.add_argument("--split", default="test", help="a split of the data (default: test); all: everything")
    evaluate.add_argument("--checkpoint", default="best", choices=("best", "last"))
    evaluate.add_argument("--out", help="JSON file for the metrics")

    embed = verbs.add("embed", run_embed, "Embed pictures and texts.", EMBED_EXAMPLE)
    embed.add_argument("--model", help="a workdir, an exported folder, or a Hugging Face CLIP", required=True)
    embed.add_argument("--images", help="folder of pictures, searched with its subfolders")
    embed.add_argument("--texts", help="text file, one text a line")
    embed.add_argument("--out", help="npz file to write", required=True)

    export = verbs.add("export", run_export, "Write a trained model as safetensors and JSON.", EXPORT_EXAMPLE)
    export.add_argument("--workdir", help="folder of a run", required=True)
    export.add_argument("--out", help="folder to write", required=True)
    export.add_argument("--checkpoint", default="best", choices=("best", "last"))


# What does the work is imported when it runs: --help and a misspelled field answer at once.


def run_train(options: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(options.config, overrides)
    from vacsr_jax import commands

    commands.train(config, Path(options.workdir), options.command, options.distributed)


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(options.config, overrides) if options.config else None
    from vacsr_jax import commands

    override = functools.partial(apply_overrides, overrides=overrides)
    commands.evaluate_workdir(options.workdir, options.split, options.checkpoint, options.out, override, config)


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
