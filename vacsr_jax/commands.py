"""What each verb of the command line does, once its arguments are understood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.classify import classify_split, finish_run
from vacsr_jax.data.datasets import open_class_split, open_split
from vacsr_jax.data.embeddings import write_embeddings
from vacsr_jax.data.source import Source
from vacsr_jax.evaluation.coco import read_caption_truth
from vacsr_jax.evaluation.protocol import describe_protocol, protocol_line
from vacsr_jax.evaluation.retrieval import Judged, evaluate
from vacsr_jax.metrics.coco import CaptionTruth
from vacsr_jax.pretrained import Pretrained, load, load_workdir
from vacsr_jax.report.html import write_report
from vacsr_jax.report.run_report import build_report, printed_table
from vacsr_jax.training.checkpoint import config_from_dict
from vacsr_jax.training.loop import METRICS
from vacsr_jax.training.loop import train as fit
from vacsr_jax.training.metric_writer import read_metrics
from vacsr_jax.training.multihost import connect, ending_together

EVALUATION, REPORT = "evaluation.json", "report.html"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CHUNK = 1024  # pictures decoded at once


def train(config: ConfigDict, workdir: Path, command: str, distributed: str | None = None) -> None:
    """Trains, then judges the best checkpoint beside the untrained model: printed, as JSON, and as a page.

    With classes as texts it is the last checkpoint, and there is no page. `distributed` is what `connect` takes, for a
    run of several processes; the first one judges.
    """
    if distributed:
        connect(distributed)
    with ending_together():
        run, _ = fit(config, workdir)
    if jax.process_index() > 0:
        return
    best = load_workdir(workdir, "best")
    if run.class_tokens is not None:
        finish_run(config, best, run.params, workdir, EVALUATION)
        return
    untrained = dataclasses.replace(best, params=run.params)
    test, truth = open_split(config, "test"), truth_of(config, "test")
    judged = judge(best, test, truth)
    columns = {"untrained": judge(untrained, test, truth).metrics, "trained": judged.metrics}
    protocol = describe_protocol(config, test, "test", best.model.clip.vision)
    facts = {"distributions": numbers_of(judged), "protocol": protocol, "noise": run.noise.facts if run.noise else None}
    write_text(workdir / EVALUATION, to_json({"step": best.step, **columns, **facts, "config": best.config}))
    title = f"{config.method} on {config.data.name}"
    curves = read_metrics(workdir / METRICS)
    write_report(workdir / REPORT, build_report(title, test, judged, columns, curves, best.config, command))
    print(printed_table(columns))
    print(f"\n{protocol_line(protocol)}")
    print(f"\n{workdir / REPORT} shows what it retrieves and how sure it is; load it: vacsr_jax.load({str(workdir)!r})")


def numbers_of(judged: Judged) -> dict:
    """The distributions of scores and uncertainties, for a JSON file."""
    return {name: {k: d._asdict() for k, d in kinds.items()} for name, kinds in judged.distributions().items()}


def truth_of(config: ConfigDict, split: str) -> CaptionTruth | None:
    """COCO's ground truth, if the config names its folder; it is of the test split alone."""
    return read_caption_truth(config.data.ground_truth) if config.data.ground_truth and split == "test" else None


def judge(model: Pretrained, source: Source, truth: CaptionTruth | None = None) -> Judged:
    return evaluate(model.model, model.params, source, model.tokenizer, model.preprocess, truth)


def evaluate_workdir(
    workdir: str,
    split: str,
    checkpoint: str,
    out: str | None,
    override: Callable[[ConfigDict], ConfigDict],
    config: ConfigDict | None = None,
) -> None:
    """Judges a run's checkpoint on a split of its data (or, with another data.path, of other data).

    With a `config`, on the data of that one; then the model may be any, a CLIP that was never trained here too.
    """
    model = load(workdir, checkpoint=checkpoint)
    if config is None and model.config is None:
        raise ValueError(f"{workdir} says nothing about its data; give --config=FILE with the data to judge it on")
    config = override(config_from_dict(model.config)) if config is None else config
    if config.data.name == "classification":
        name = "test_all" if split == "all" else split
        classify_split(model, open_class_split(config, name), config.data.template, name, out)
        return
    source = open_split(config, None if split == "all" else split)
    judged = judge(model, source, truth_of(config, split))
    protocol = describe_protocol(config, source, split, model.model.clip.vision)
    print(printed_table({split: judged.metrics}))
    print(f"\n{protocol_line(protocol)}")
    if out:
        write_text(Path(out), to_json({**judged.metrics, "distributions": numbers_of(judged), "protocol": protocol}))


def embed(model: Pretrained, images: str | None, texts: str | None, out: Path) -> int:
    """Embeddings of a folder's pictures and a file's lines into one npz; returns their number; see `embed_files`."""
    embedded = embed_files(model, images, texts)
    write_embeddings(
        out,
        embeddings=embedded.vectors,
        ids=np.array(embedded.ids),
        modality=np.array(embedded.modality),
        model_id=np.array(model.fingerprint()),
    )
    return len(embedded.ids)


class Embedded(NamedTuple):
    """Pictures and texts: vectors float32 [n, d], ids, modality (image or text), contents (file or text)."""

    vectors: np.ndarray
    ids: list[str]
    modality: list[str]
    contents: list[str]


def embed_files(model: Pretrained, images: str | None, texts: str | None) -> Embedded:
    """A folder's pictures and a file's lines. Ids are the pictures' paths in the folder, and file:line.

    Raises:
      ValueError: if there is nothing to embed, a picture cannot be read, or a line is empty (its number is named).
    """
    parts, ids, modality, contents = [], [], [], []
    if images:
        paths = find_pictures(Path(images))
        for start in tqdm(range(0, len(paths), CHUNK), unit=f" x {CHUNK} pictures", disable=None):
            parts.append(model.cosine_vectors(model.encode_images(paths[start : start + CHUNK])))
        ids += [path.relative_to(images).as_posix() for path in paths]
        modality += ["image"] * len(paths)
        contents += [str(path.resolve()) for path in paths]
    if texts:
        lines = read_lines(Path(texts))
        parts.append(model.cosine_vectors(model.encode_texts(lines)))
        ids += [f"{Path(texts).name}:{number}" for number in range(1, len(lines) + 1)]
        modality += ["text"] * len(lines)
        contents += lines
    if not parts:
        raise ValueError("nothing to embed; give --images=FOLDER, --texts=FILE, or both")
    return Embedded(np.concatenate(parts), ids, modality, contents)


def find_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"--images: {folder} is no folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not paths:
        raise ValueError(f"--images: {folder} holds no picture ({', '.join(PICTURES)})")
    return paths


def read_lines(path: Path) -> list[str]:
    try:
        # Split at newlines only: str.splitlines would also cut a text at U+2028.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error})") from error
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(f"{path}: line {empty[0]} is empty; give one text a line")
    return lines
