"""A model as a classifier: what a run on classes ends with, and what `vacsr classify` does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.data.classification.protocol import manifest_hash, shots_of_subset, to_manifest
from vacsr_jax.data.classification.source import ClassSource, load_benchmark
from vacsr_jax.data.datasets import open_class_split
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.evaluation.classification import classify, result_of, summary
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.report.tables import format_table

SHOTS = "shots.json"
Results = dict[str, dict[str, Any]]


def finish_run(config: ConfigDict, model: Pretrained, untrained_params: Any, workdir: Path, evaluation: str) -> None:
    """Judges the last model of a run, beside the untrained one, on all of `data.tests`: printed, and as JSON.

    The images that were drawn for training are listed beside it.
    """
    untrained = dataclasses.replace(model, params=untrained_params)
    columns = {"untrained": judge_tests(untrained, config), "trained": judge_tests(model, config)}
    drawn = drawn_images(config)
    values = {"step": model.step, **describe_run(config, drawn), **columns, "config": model.config}
    values |= {f"{name}_summary": summary(results) for name, results in columns.items()}
    write_text(workdir / evaluation, to_json(values))
    if drawn is not None:
        write_text(workdir / SHOTS, drawn)
    print(printed_table(columns))


def drawn_images(config: ConfigDict) -> str | None:
    """The few-shot draw as `vacsr data shots` writes it; None if all images are used."""
    data = config.data
    if not data.shots:
        return None
    _, table, _ = load_benchmark(data.dataset, data.path, data.tfds)
    return to_manifest(*shots_of_subset(table, shots=data.shots, seed=config.seed, subset=data.subset))


def describe_run(config: ConfigDict, drawn: str | None) -> dict[str, Any]:
    """What a result depends on: method, seed, the images drawn (by the SHA-256 of their file), prompt."""
    values = {name: config.data[name] for name in ("dataset", "subset", "shots", "template")}
    return {
        "method": config.method,
        "seed": config.seed,
        **values,
        "shots_sha256": None if drawn is None else manifest_hash(drawn),
    }


def judge_tests(model: Pretrained, config: ConfigDict) -> Results:
    """The result of each of `data.tests`."""
    return {test: judge(model, open_class_split(config, test), config.data.template) for test in config.data.tests}


def judge(model: Pretrained, source: ClassSource, template: str) -> dict[str, Any]:
    """One test set; see `result_of`."""
    resize = functools.partial(preprocess, image_size=model.model.clip.vision.image_size)
    classified = classify(model.model, model.params, source, model.tokenizer, resize, template)
    return result_of(source, classified, template)


def classify_split(model: Pretrained, source: ClassSource, template: str, name: str, out: str | None) -> None:
    """Judges a model on one test set: printed, and as JSON into `out`."""
    result = judge(model, source, template)
    print(printed_table({"model": {name: result}}))
    if out:
        write_text(Path(out), to_json(result))


def printed_table(columns: Mapping[str, Results]) -> str:
    """Accuracies in per cent, a row for each test, with the label space and the prompt."""
    first = next(iter(columns.values()))
    rows = []
    for test, of in first.items():
        accuracies = (100 * results[test]["accuracy"] for results in columns.values())
        rows.append([test, *accuracies, of["images"], of["label_space"]["classes"], of["template"]])
    extra = [summary(results) for results in columns.values()]
    for name in ("harmonic_mean", "target_mean"):
        if name in extra[0]:
            rows.append([name.replace("_", " "), *(100 * found[name] for found in extra), None, None, None])
    return format_table(rows, ["accuracy, %", *columns, "images", "classes", "prompt"], digits=2)
