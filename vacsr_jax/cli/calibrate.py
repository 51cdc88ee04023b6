"""`vacsr calibrate`: a match probability for any model, from labelled pairs or from image-text pairs alone."""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.config_files import apply_overrides, load_config, with_new_fields

if TYPE_CHECKING:
    from vacsr_jax.calibration import Calibration
    from vacsr_jax.pretrained import Pretrained

EXAMPLE = """example:
  vacsr calibrate --model=runs/scenes
  vacsr calibrate --model=openai/clip-vit-base-patch32 --labels=labels.csv --out=calibrated
  vacsr calibrate --embeddings=pairs.npz --labels=labels.csv --out=calibrated
  vacsr calibrate --embeddings=pairs.npz --out=calibrated

Fits P(match) = sigmoid(a logit + b). `vacsr_jax.load` then gives scores.probability.

--labels is a CSV file with the columns image, text and match (1 or 0), one pair a line: a few hundred, drawn as the
pairs to come will be. The image is a file and the text a text; of embeddings, both are an id or a row.

Without labels the pairs of a data set are used (--config, or the model's own data; --split). An unlabelled pair does
not count as no match: the fit has a share of matches that are labelled, and a share of wrong labels.

--embeddings without --model calibrates the cosine of the file's own embeddings.

Writes calibration.json, and calibration.png (the reliability of pairs that the fit did not see, with 95 % intervals),
into the model's folder, or a calibrated copy of the model to --out."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("calibrate", run, "Fit a model's match probability.", EXAMPLE, takes_config=True)
    parser.add_argument("--model", help="a workdir, an export, a name of `vacsr models`, or a CLIP, SigLIP or OpenCLIP")
    parser.add_argument("--embeddings", metavar="FILE", help="pairs of embeddings; alone, their cosine is calibrated")
    parser.add_argument("--labels", metavar="CSV", help="labelled pairs: image,text,match")
    parser.add_argument("--config", metavar="FILE[:ARGS]", help="a config that names the data (default: the model's)")
    parser.add_argument("--split", help="of the data (default: validation, or all of a file of embeddings)")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of a workdir (default: best)")
    parser.add_argument("--out", help="folder for a calibrated copy of the model")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.metrics.calibration import ece_by_chance, expected_calibration_error
    from vacsr_jax.pretrained import load
    from vacsr_jax.report.calibration_plot import draw_reliability

    if not options.model and not options.embeddings:
        raise ValueError("nothing to calibrate; give --model, or --embeddings=FILE")
    if options.labels and options.config:
        raise ValueError("--labels: the file names the pairs; leave --config out")
    if options.embeddings and options.config:
        raise ValueError("--embeddings: the file is the data; leave --config out")
    model = load(options.model, checkpoint=options.checkpoint) if options.model else cosine_of(options.embeddings)
    folder = Path(options.out or options.model or "")
    if not options.out and not (options.model and folder.is_dir() and can_hold(folder)):
        raise ValueError("--out: missing; name a folder for the calibrated model")
    model = dataclasses.replace(model, calibration=None)
    if options.labels:
        found, logits, seen, labels = by_labels(model, options)
        kind = "matches"
    else:
        found, logits, seen, labels = by_pairs(model, options, overrides)
        kind = "labelled pairs"
    ece = expected_calibration_error(seen, labels, equal_mass=True)
    chance = ece_by_chance(seen, equal_mass=True)
    found = dataclasses.replace(found, ece=ece, step=model.step)
    for caution in found.cautions(logits):
        print(f"note: {caution}")
    calibrated = dataclasses.replace(model, calibration=found)
    if options.out:
        calibrated.save(folder)
    else:
        found.save(folder)
    plot = folder / "calibration.png"
    draw_reliability(plot, {"pairs that the fit did not see": (seen, labels)}, kind)
    print(summary(found, ece, chance, kind))
    print(f"\n{folder}: calibration.json; {plot} shows the reliability")


def summary(found: Calibration, ece: float, chance: float, kind: str) -> str:
    slope, _, intercept = np.sqrt(np.maximum(found.covariance, 0))
    a, b = f"{found.slope:.3g} ± {slope:.2g}", f"{found.intercept:.3g} ± {intercept:.2g}"
    lines = [
        f"P(match) = sigmoid(a logit + b): a {a}, b {b}",
        f"fitted on {found.pairs:,} {found.fitted_on}, {found.matches:,} of them labelled a match",
        f"share of matches among these pairs: {found.prior:.3g}; where pairs match more or less often, fit again",
    ]
    if found.noise_rate is not None:
        lines.append(
            f"wrong labels: {found.noise_rate:.3f}; share of the matches that is labelled: {found.propensity:.3f}"
        )
        lines.append("the truth of unlabelled pairs is not known: only the probability of the label can be checked")
    lines.append(f"ECE of {kind}, not seen by the fit: {ece:.4f} (up to {chance:.4f} by chance; bins of equal mass)")
    return "\n".join(lines)


def can_hold(folder: Path) -> bool:
    """Whether a folder is a workdir or an export, which keep a calibration."""
    from vacsr_jax.pretrained import is_export
    from vacsr_jax.workdir import CHECKPOINTS

    return (folder / CHECKPOINTS).is_dir() or is_export(folder)


def cosine_of(path: str) -> Pretrained:
    """The cosine of a file's embeddings as a model."""
    from vacsr_jax.data.embedding_files import read_pairs
    from vacsr_jax.pretrained import cosine_of_embeddings

    pairs = read_pairs(path)
    return cosine_of_embeddings(pairs.images.shape[1], pairs.texts.shape[1], pairs.image_model, pairs.text_model)


def by_labels(model: Pretrained, options: argparse.Namespace) -> tuple[Calibration, np.ndarray, np.ndarray, np.ndarray]:
    """The fit, the logits of the labelled pairs, their out-of-fold probabilities, and the labels."""
    from vacsr_jax.calibration import fit_labelled
    from vacsr_jax.calibration.labelled import out_of_fold

    images, texts, match = read_labels(Path(options.labels))
    chosen_images, chosen_texts = list(dict.fromkeys(images)), list(dict.fromkeys(texts))
    given: tuple[Any, Any]
    if options.embeddings:
        given = vectors_named(options.embeddings, chosen_images, chosen_texts)
    else:
        given = [str(Path(options.labels).parent / x) for x in chosen_images], chosen_texts
    logit = model.score(*given).logit
    rows, columns = ({x: i for i, x in enumerate(names)} for names in (chosen_images, chosen_texts))
    mine = logit[[rows[x] for x in images], [columns[x] for x in texts]].astype(np.float64)
    return fit_labelled(mine, match), mine, out_of_fold(mine, match), match


def read_labels(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Images, texts and matches of a CSV file.

    Raises:
      ValueError: naming the line, if a column is missing, a field is empty, or match is not 0 or 1.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"image", "text", "match"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; expected image,text,match")
            lines = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    for number, row in lines:
        if not row["image"] or not row["text"] or row["match"] not in ("0", "1"):
            raise ValueError(f"{path}: line {number}: got {list(row.values())!r:.80}, expected image,text,1 or 0")
    if not lines:
        raise ValueError(f"{path}: no pair; give a few hundred")
    match = np.array([row["match"] == "1" for _, row in lines])
    return [row["image"] for _, row in lines], [row["text"] for _, row in lines], match


def vectors_named(path: str, images: list[str], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of items of a file, each named by its id, or by its row where the file has no ids."""
    from vacsr_jax.data.embedding_files import read_pairs

    pairs = read_pairs(path)
    found = []
    for kind, names, ids, vectors in (
        ("image", images, pairs.image_ids, pairs.images),
        ("text", texts, pairs.text_ids, pairs.texts),
    ):
        rows = {str(x): i for i, x in enumerate(range(len(vectors)) if ids is None else ids)}
        unknown = next((x for x in names if x not in rows), None)
        if unknown is not None:
            what = f"a {kind}'s id" if ids is not None else f"the row of a {kind}, 0 to {len(vectors) - 1}"
            raise ValueError(f"--labels: {kind} {unknown!r} is not in {path}; expected {what}")
        found.append(vectors[np.array([rows[x] for x in names])])
    return found[0], found[1]


def by_pairs(
    model: Pretrained, options: argparse.Namespace, overrides: list[str]
) -> tuple[Calibration, np.ndarray, np.ndarray, np.ndarray]:
    """The fit, all logits, and of each half of the images the label's probability by a fit of the other half."""
    from vacsr_jax.calibration import fit_pairs
    from vacsr_jax.calibration.pairs import MOST_IMAGES, Fit
    from vacsr_jax.evaluation.loaded_model import score_captions

    source = open_pairs(model, options, overrides)
    source = source.first(2 * MOST_IMAGES) if hasattr(source, "first") else source
    scores, labels = score_captions(model, source)
    logit = scores.logit.astype(np.float64)
    image_of = labels.argmax(axis=0)
    half = np.random.default_rng(0).permutation(len(logit)) % 2 == 0
    if min(half.sum(), (~half).sum()) < 2:
        raise ValueError(f"calibrate: {len(logit)} images are too few; give at least 4, better {MOST_IMAGES}")
    seen, truth = [], []
    for mine in (half, ~half):
        here, there = (np.ix_(side, side[image_of]) for side in (mine, ~mine))
        fit = fit_pairs(logit[there], labels[there])
        parts = Fit(fit.slope, fit.intercept, fit.propensity or 1.0, fit.noise_rate or 0.0)
        seen.append(parts.label_probability(logit[here]).ravel())
        truth.append(labels[here].ravel())
    return fit_pairs(logit, labels), logit, np.concatenate(seen), np.concatenate(truth)


def open_pairs(model: Pretrained, options: argparse.Namespace, overrides: list[str]) -> Any:
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.data.embedding_files import read_pairs
    from vacsr_jax.training.checkpoint import config_from_dict

    if options.embeddings:
        return read_pairs(options.embeddings).source(options.split)
    config = load_config(options.config, overrides) if options.config else None
    if config is None:
        if model.config is None:
            raise ValueError(f"{options.model} does not name its data; give --config=FILE, or --labels=CSV")
        config = apply_overrides(with_new_fields(config_from_dict(model.config)), overrides)
    return open_split(config, options.split or "validation")
