"""`vacsr train`: trains the model of a config, and fills a workdir with checkpoints, an evaluation and a report."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vacsr_jax.cli.verbs import Once, Verbs
from vacsr_jax.config_files import described_fields, load_config
from vacsr_jax.workdir import CHECKPOINTS, EVALUATION, METRICS, REPORT, SHOTS

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vacsr_jax.data.source import Source
    from vacsr_jax.metrics.coco import CaptionTruth
    from vacsr_jax.pretrained import Pretrained
    from vacsr_jax.training.run import Run

EXAMPLE = """example:
  vacsr train --config=scenes --workdir=runs/scenes
  vacsr train --config=scenes:noise=0.5 --workdir=runs/noisy --config.optim.lr=5e-4 --config.seed=1
  vacsr train --config=base_to_novel:dataset=eurosat,root=DATA --workdir=runs/eurosat
  vacsr train --config=my_config.py --workdir=runs/mine
  vacsr train --config=scenes --workdir=/shared/run --distributed=10.0.0.1:1234,2,0

`vacsr configs` lists the published configs, and `vacsr configs show scenes` prints one to start from. The same command
again resumes a run that was stopped or killed, bit for bit. SIGTERM and Ctrl-C save first. To train with several
processes, start each with --distributed. Writes metrics.jsonl (curves), checkpoints/ (the best and the last two),
evaluation.json and report.html to the workdir."""

# The fields that people change most, in the order of --help.
FIELDS = (
    "method",
    "seed",
    "train.steps",
    "train.epochs",
    "train.batch_size",
    "train.tile_pairs",
    "train.log_to",
    "optim.lr",
    "optim.warmup_steps",
    "optim.weight_decay",
    "checkpoint.every",
    "model.pretrained",
    "model.towers",
    "model.image_size",
    "model.context_length",
    "model.dtype",
    "data.path",
    "data.on_error",
    "data.noise",
    "augment.images",
)


def register(verbs: Verbs) -> None:
    parser = verbs.add(
        "train",
        run,
        "Train the model of a config, then evaluate the best checkpoint.",
        f"{EXAMPLE}\n\n{describe_fields()}",
        takes_config=True,
    )
    parser.add_argument(
        "--config",
        action=Once,
        metavar="NAME|FILE[:ARGS]",
        help="a published config or a file, and its argument string",
        required=True,
    )
    parser.add_argument("--workdir", help="folder of the run; created if it does not exist", required=True)
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,PROCESSES,INDEX",
        help="train as one of several processes, with the address of the first; no value on TPU pods and SLURM",
    )


def describe_fields() -> str:
    """A line for each of FIELDS: how to set it, its default, and what it does."""
    described = described_fields()
    settings = {name: f"--config.{name}={described[name][0]}" for name in FIELDS}
    width = max(map(len, settings.values()))
    lines = [f"  {setting:{width}}  {described[name][1]}" for name, setting in settings.items()]
    return "\n".join(
        [
            "Fields that people change most, with their defaults (a config may set others):",
            *lines,
            "`vacsr configs show default` prints all fields.",
        ]
    )


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    config, workdir = load_config(options.config, overrides), Path(options.workdir)
    try:
        train_and_evaluate(config, workdir, command=options.command, distributed=options.distributed)
    except KeyboardInterrupt as stopped:
        finished = any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*"))
        if str(stopped) or not finished:
            raise
        raise KeyboardInterrupt("run the same command again to continue from the last checkpoint") from None


def train_and_evaluate(config: ConfigDict, workdir: Path, *, command: str = "", distributed: str | None = None) -> None:
    """Trains, then evaluates the best checkpoint and the untrained model: in the terminal, as JSON, and as a page.

    If the texts are classes, the last checkpoint counts as the best, and there is no page.

    Args:
      command: shown on the page.
      distributed: see `training.multihost.connect`. Only the first process evaluates.
    """
    import jax

    from vacsr_jax.pretrained import load_workdir
    from vacsr_jax.training.checks import check_config
    from vacsr_jax.training.loop import train
    from vacsr_jax.training.multihost import connect, ending_together

    if distributed:
        connect(distributed)
    check_config(config)
    tests = open_tests(config)
    with ending_together():
        finished, _ = train(config, workdir)
    if jax.process_index() > 0:
        return
    best = load_workdir(workdir, "best")
    if isinstance(tests, CaptionTest):
        evaluate_on_captions(config, tests, finished, best, workdir, command=command)
    else:
        evaluate_on_classes(config, finished, best, workdir)


class CaptionTest(NamedTuple):
    """The test split of a run on captions, and COCO's ground truth for it if the config names that."""

    source: Source
    truth: CaptionTruth | None


def open_tests(config: ConfigDict) -> CaptionTest | None:
    """Opens what the run will be evaluated on, before it trains; None for classes, whose tests are opened by name.

    Raises:
      ValueError: if there is no test split, it or its ground truth cannot be read, or the two do not belong together.
    """
    from vacsr_jax.data.classification.protocol import find_template
    from vacsr_jax.data.datasets import open_class_split, open_split
    from vacsr_jax.evaluation.loaded_model import caption_truth
    from vacsr_jax.evaluation.retrieval import check_truth

    if config.data.name == "classification":
        for name in config.data.tests:
            find_template(open_class_split(config, name).benchmark, config.data.template)
        return None
    try:
        test = CaptionTest(open_split(config, "test"), caption_truth(config, "test"))
    except ValueError as error:
        raise ValueError(f"{error} (the split test is evaluated after training, so it is opened first)") from error
    if test.truth is not None:
        check_truth(test.source, test.truth)
    return test


def evaluate_on_captions(
    config: ConfigDict, test: CaptionTest, finished: Run, best: Pretrained, workdir: Path, *, command: str = ""
) -> None:
    """Writes and prints the metrics of the best and the untrained model on the test split, and writes the page."""
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.loaded_model import distributions_as_json, evaluate_captions
    from vacsr_jax.evaluation.protocol import describe_protocol, protocol_line
    from vacsr_jax.report.html import write_report
    from vacsr_jax.report.run_report import build_report, printed_table
    from vacsr_jax.training.metric_writer import read_metrics

    source, truth = test
    untrained = dataclasses.replace(best, params=finished.params)
    evaluation = evaluate_captions(best, source, truth)
    columns = {"untrained": evaluate_captions(untrained, source, truth).metrics, "trained": evaluation.metrics}
    protocol = describe_protocol(config, source, "test", best)
    facts = {
        "distributions": distributions_as_json(evaluation),
        "protocol": protocol,
        "noise": finished.noise.facts if finished.noise else None,
        "cut training captions": finished.cut,
    }
    write_text(workdir / EVALUATION, to_json({"step": best.step, **columns, **facts, "config": best.config}))
    title = f"{workdir.resolve().name}: {config.method} on {config.data.name}"
    curves = read_metrics(workdir / METRICS)
    explain = best.explain if best.model.pair.explains else None
    write_report(
        workdir / REPORT, build_report(title, source, evaluation, columns, curves, best.config or {}, command, explain)
    )
    print(printed_table(columns))
    print(f"\n{protocol_line(protocol)}")
    print(f"\n{workdir / REPORT} shows what it retrieves and how sure it is; load it: vacsr_jax.load({str(workdir)!r})")


def evaluate_on_classes(config: ConfigDict, finished: Run, last: Pretrained, workdir: Path) -> None:
    """Writes and prints the accuracy of the last and the untrained model on all of `data.tests`.

    With few-shot training, the images that were drawn are written to SHOTS.
    """
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.classification import summary
    from vacsr_jax.evaluation.loaded_model import evaluate_tests
    from vacsr_jax.report.accuracies import accuracy_table

    untrained = dataclasses.replace(last, params=finished.params)
    columns = {"untrained": evaluate_tests(untrained, config), "trained": evaluate_tests(last, config)}
    drawn = drawn_images(config)
    values = {
        "step": last.step,
        "cut class prompts": finished.cut,
        **describe_few_shot(config, drawn),
        **columns,
        "config": last.config,
    }
    values |= {f"{name}_summary": summary(results) for name, results in columns.items()}
    write_text(workdir / EVALUATION, to_json(values))
    if drawn is not None:
        write_text(workdir / SHOTS, drawn)
    print(accuracy_table(columns))


def drawn_images(config: ConfigDict) -> str | None:
    """The few-shot draw, in the form that `vacsr data shots` writes; None if all images are used."""
    from vacsr_jax.data.classification.protocol import shots_of_subset, to_manifest
    from vacsr_jax.data.classification.source import load_benchmark

    data = config.data
    if not data.shots:
        return None
    _, table, _ = load_benchmark(data.dataset, data.path, data.tfds)
    return to_manifest(*shots_of_subset(table, shots=data.shots, seed=config.seed, subset=data.subset))


def describe_few_shot(config: ConfigDict, drawn: str | None) -> dict[str, Any]:
    """What a result depends on: method, seed, data, prompt, and the SHA-256 of the list of drawn images."""
    from vacsr_jax.data.classification.protocol import manifest_hash

    values = {name: config.data[name] for name in ("dataset", "subset", "shots", "template")}
    return {
        "method": config.method,
        "seed": config.seed,
        **values,
        "shots_sha256": None if drawn is None else manifest_hash(drawn),
    }
