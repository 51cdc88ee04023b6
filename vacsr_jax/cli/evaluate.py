"""`vacsr evaluate`: computes the metrics of a model on a split of its data, or of other data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vacsr_jax.cli.verbs import Once, Verbs
from vacsr_jax.config_files import apply_overrides, load_config, with_new_fields

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vacsr_jax.pretrained import Pretrained

EXAMPLE = """example:
  vacsr evaluate --model=runs/scenes --split=test --out=metrics.json
  vacsr evaluate --model=runs/emoji --config.data.path=other_pictures --split=all
  vacsr evaluate --model=openai/clip-vit-base-patch32 --config=coco:path=COCO

The last command evaluates a CLIP as it is (zero-shot) on the data of a config."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("evaluate", run, "Evaluate a model on a split of data.", EXAMPLE, takes_config=True)
    parser.add_argument(
        "--model", help="a workdir, an export, a name of `vacsr models`, or a CLIP, SigLIP or OpenCLIP", required=True
    )
    parser.add_argument(
        "--config", action=Once, metavar="NAME|FILE[:ARGS]", help="a config that names the data (default: the model's)"
    )
    parser.add_argument("--split", default="test", help="a split of the data (default: test); all: everything")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of a workdir (default: best)")
    parser.add_argument("--out", help="JSON file for the metrics")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(options.config, overrides) if options.config else None
    # Imported after the config is read, so that a mistake in it is reported at once.
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.pretrained import load

    model = load(options.model, checkpoint=options.checkpoint)
    if config is None:
        config = run_config(model, options.model, overrides)
        check_there(config, options.model)
    print_metrics = on_classes if config.data.name == "classification" else on_captions
    metrics = print_metrics(model, config, options.split)
    if options.out:
        write_text(Path(options.out), to_json(metrics))


def run_config(model: Pretrained, name: str, overrides: list[str]) -> ConfigDict:
    """The config of a model's run, with every `--config.field=value` applied; ValueError if it has none."""
    from vacsr_jax.training.checkpoint import config_from_dict

    if model.config is None:
        raise ValueError(f"{name} does not name its data; give --config=FILE with the data to evaluate on")
    return apply_overrides(with_new_fields(config_from_dict(model.config)), overrides)


def check_there(config: ConfigDict, model: str) -> None:
    """Raises ValueError if the data of a model's run are no longer where the run found them."""
    from vacsr_jax.data.datasets import missing_paths

    missing = missing_paths(config)
    if missing:
        raise ValueError(
            f"{model}: its run read data at {missing[0]}, where nothing is now; say where they are with "
            "--config.data.path=FOLDER"
        )


def on_captions(model: Pretrained, config: ConfigDict, split: str) -> dict[str, Any]:
    """Prints the metrics with their protocol, and returns the content of the JSON file."""
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.evaluation.loaded_model import caption_truth, distributions_as_json, evaluate_captions
    from vacsr_jax.evaluation.protocol import describe_protocol, protocol_line
    from vacsr_jax.report.run_report import printed_table

    source = open_split(config, None if split == "all" else split)
    evaluation = evaluate_captions(model, source, caption_truth(config, split))
    protocol = describe_protocol(config, source, split, model)
    print(printed_table({split: evaluation.metrics}))
    print(f"\n{protocol_line(protocol)}")
    return {**evaluation.metrics, "distributions": distributions_as_json(evaluation), "protocol": protocol}


def on_classes(model: Pretrained, config: ConfigDict, split: str) -> dict[str, Any]:
    """Prints the accuracy, and returns the content of the JSON file."""
    from vacsr_jax.data.datasets import open_class_split
    from vacsr_jax.evaluation.loaded_model import evaluate_classes
    from vacsr_jax.report.accuracies import accuracy_table

    name = "test_all" if split == "all" else split
    result = evaluate_classes(model, open_class_split(config, name), config.data.template)
    print(accuracy_table({"model": {name: result}}))
    return result
