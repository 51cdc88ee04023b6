"""`vacsr audit`: which labels of a data set are wrong, and which matches have no label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vacsr_jax.cli.evaluate import check_there
from vacsr_jax.cli.verbs import Once, Verbs
from vacsr_jax.config_files import apply_overrides, load_config, with_new_fields

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vacsr_jax.audit.findings import Findings
    from vacsr_jax.audit.judge import Judge

FOLDS = 5  # by default
LEARNED = (
    "the model was trained on these data, so wrong labels that it has learned by heart look right; for a fair list "
    "audit a split that it was not trained on, or embeddings without --model"
)
EXAMPLE = """example:
  vacsr audit --model=runs/tokens --split=train --out=audit
  vacsr audit --model=runs/tokens --config=configs/image_folder.py:path=my_pictures --split=all --out=audit
  vacsr audit --embeddings=pairs.npz --out=audit --drop=0.9 --add=0.9
  vacsr audit --embeddings=pairs.npz --out=audit --marks=marks.csv

Writes suspect_labels.csv (every label, the likeliest wrong one first), missing_matches.csv (unlabelled pairs, the
likeliest match first), duplicates.csv, summary.json (the share of wrong labels and the number of missing matches, with
95 % intervals), and audit.html, a page to look at them and to mark what is right. --marks takes the file that the page
saves, and recalibrates the probabilities.

The model must tell a match from a label (method=propensity). --embeddings without --model trains one on the file in
folds, so that no pair is judged by a model that was trained on it. --drop and --add write cleaned/: the metadata
without the labels that are likelier wrong than --drop, and with the listed pairs that are likelier matches than --add.
The data themselves stay as they are."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("audit", run, "List wrong labels and missing matches of a data set.", EXAMPLE, takes_config=True)
    parser.add_argument("--model", help="a workdir or an exported folder of a run with method=propensity")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of a workdir (default: best)")
    parser.add_argument(
        "--config", action=Once, metavar="NAME|FILE[:ARGS]", help="a config that names the data (default: the model's)"
    )
    parser.add_argument("--embeddings", metavar="FILE", help="audit pairs of embeddings in place of a config's data")
    parser.add_argument("--split", default="all", help="a split of the data (default: all of them)")
    parser.add_argument("--folds", type=int, help="models that are trained where none is given (default: 5)")
    parser.add_argument("--out", required=True, help="folder for the lists")
    parser.add_argument(
        "--most", type=int, default=10_000, help="missing matches and duplicates listed (default: 10000)"
    )
    parser.add_argument("--drop", type=float, metavar="P", help="leave labels with p_wrong >= P out of cleaned/")
    parser.add_argument("--add", type=float, metavar="P", help="add listed pairs with p_match >= P to cleaned/")
    parser.add_argument(
        "--duplicates", type=float, default=0.98, metavar="COS", help="least similarity of duplicates; 0: do not look"
    )
    parser.add_argument("--marks", metavar="CSV", help="marks that the page has saved: recalibrate by them")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    check_options(options)
    config = load_config(options.config, overrides) if options.config else None
    from vacsr_jax.audit.cleaned import write_cleaned
    from vacsr_jax.audit.duplicates import find_duplicates
    from vacsr_jax.audit.findings import audit, data_hash
    from vacsr_jax.audit.lists import chosen, summary_of, write_lists
    from vacsr_jax.audit.marks import read_marks
    from vacsr_jax.report.audit_page import write_audit_page

    marks = read_marks(options.marks) if options.marks else []
    judges, about = judges_of(options, config, overrides)
    found = audit(judges, options.most, marks)
    found.cautions.extend(about.pop("cautions"))
    duplicates = find_duplicates(judges[0], options.duplicates, options.most) if options.duplicates else None
    summary = {**about, "data_sha256": data_hash(found.data), **summary_of(found, duplicates)}
    out = Path(options.out)
    if options.drop is not None or options.add is not None:
        dropped, added = chosen(found, options.drop, options.add)
        if len(added) == options.most:
            found.cautions.append(
                f"all {options.most:,} listed matches are as likely as --add; raise --most to add more"
            )
        files = write_cleaned(out / "cleaned", found.data, dropped, added, about["data"]["form"])
        summary["cleaned"] = {
            "drop": options.drop,
            "add": options.add,
            "dropped": len(dropped),
            "added": len(added),
            "files": files,
        }
    write_lists(out, found, duplicates, summary)
    write_audit_page(out / "audit.html", page_of(found, duplicates, summary, options))
    print(told(found, summary, out))


def check_options(options: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together, or numbers out of their range."""
    if options.embeddings and options.config:
        raise ValueError("--embeddings: the file is the data; leave --config out")
    if not options.model and not options.embeddings:
        raise ValueError(
            "--model: missing; train one (vacsr train --config=... with method=propensity), or embed the data with a "
            "model that you have (vacsr embed --pairs) and give --embeddings"
        )
    if options.model and options.folds is not None:
        raise ValueError("--folds: the model is there already; leave it out, or leave --model out")
    if options.most < 1:
        raise ValueError(f"--most: got {options.most}, expected 1 or more")
    for name in ("drop", "add", "duplicates"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name}: got {value}, expected a number from 0 to 1")


def judges_of(options, config: ConfigDict | None, overrides: list[str]) -> tuple[list[Judge], dict[str, Any]]:
    """The judges, and what the summary says of model and data."""
    from vacsr_jax.audit.judge import Judge, Labelled
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.data.embedding_files import read_pairs
    from vacsr_jax.data.source import caption_pairs
    from vacsr_jax.evaluation.loaded_model import check_kind
    from vacsr_jax.pretrained import load
    from vacsr_jax.training.checkpoint import config_from_dict
    from vacsr_jax.training.run import noise_of

    if not options.model:
        return trained_judges(options, overrides)
    split = None if options.split == "all" else options.split
    model = load(options.model, checkpoint=options.checkpoint)
    own = with_new_fields(config_from_dict(model.config)) if model.config is not None else None
    source: Any
    if options.embeddings:
        source, noise = read_pairs(options.embeddings).source(split), 0.0
        form, path, image_of = "embeddings", options.embeddings, source.text_image
    else:
        if config is None:
            if own is None:
                raise ValueError(f"{options.model} does not name its data; give --config=FILE with the data to audit")
            config = apply_overrides(own, overrides)
            check_there(config, options.model)
        form, path = config.data.name, config.data.path
        if form == "classification":
            raise ValueError("audit: the data are images with classes; expected images with captions")
        source = open_split(config, split)
        image_of = caption_pairs(source)[1]
        drawn = noise_of(config, image_of) if split == "train" else None
        image_of, noise = (image_of, 0.0) if drawn is None else (drawn.index, float(drawn.facts["wrong"]))
    check_kind(model, source)
    judges = [Judge(model, Labelled(source, image_of), np.arange(len(source)))]
    cautions = []
    if own is not None and own.data.name == form and own.data.path == path and options.split in ("train", "all"):
        cautions.append(LEARNED)
    about = {
        "model": str(options.model),
        "step": model.step,
        "fingerprints": prints(judges),
        "data": {"form": form, "path": path, "split": options.split, "wrong_labels_put_in": noise},
        "cautions": cautions,
    }
    return judges, about


def trained_judges(options: argparse.Namespace, overrides: list[str]) -> tuple[list[Judge], dict[str, Any]]:
    """Judges that this command trains on a file of embeddings, and what the summary says of them."""
    from vacsr_jax.audit.cross_fit import cross_fit
    from vacsr_jax.data.embedding_files import read_pairs

    config = load_config(f"embeddings:path={options.embeddings}", overrides)
    source = read_pairs(options.embeddings).source(None if options.split == "all" else options.split)
    folds = FOLDS if options.folds is None else options.folds
    judges = cross_fit(source, config, folds, Path(options.out) / "folds")
    data = {"form": "embeddings", "path": str(options.embeddings), "split": options.split, "wrong_labels_put_in": 0.0}
    about = {"model": "trained by this command", "folds": folds, "fingerprints": prints(judges), "data": data}
    return judges, {**about, "cautions": []}


def prints(judges: list[Judge]) -> list[str]:
    """The fingerprints of the judges' models."""
    return [judge.trained.fingerprint() for judge in judges]


def page_of(found: Findings, duplicates, summary: dict[str, Any], options: argparse.Namespace):
    """What the page shows: the first of each list, with pictures."""
    from vacsr_jax.data.source import caption_pairs
    from vacsr_jax.report.audit_page import LISTED, AuditPage, Label, Match, picture_of

    source, captions = found.data.source, caption_pairs(found.data.source)[0]
    p_wrong = found.p_wrong
    labels = [
        Label(
            int(found.data.image_of[j]),
            int(j),
            captions[j],
            float(p_wrong[j]),
            tuple(int(i) for i in found.better[:, j] if i >= 0),
        )
        for j in found.worst[:LISTED]
    ]
    matches = [
        Match(int(i), int(j), captions[j], float(p))
        for (i, j), p in zip(found.missing[:LISTED], found.p_match[:LISTED], strict=True)
    ]
    shown = {i for x in labels for i in (x.image, *x.better)} | {x.image for x in matches}
    pictures = {i: picture_of(source, i) for i in sorted(shown)}

    def name(i: int) -> str:
        """An image's id, and where there is no picture of it a caption that it is labelled with."""
        own = np.flatnonzero(found.data.image_of == i)[:1] if pictures[i] is None else np.empty(0, int)
        return " ".join([str(source.ids[i]), *(f"“{captions[j]}”" for j in own)])

    return AuditPage(
        labels=labels,
        matches=matches,
        pictures=pictures,
        names={i: name(i) for i in pictures},
        wrong_histogram=np.histogram(p_wrong, len(found.histogram), (0, 1))[0],
        match_histogram=found.histogram,
        thresholds=(options.drop, options.add),
        summary=summary,
        command=options.command,
    )


def told(found: Findings, summary: dict[str, Any], out: Path) -> str:
    share, expected, m = found.share, found.expected, summary["labels"]
    lines = [f"note: {caution}" for caution in found.cautions]
    lines += [
        f"{summary['images']:,} images, {m:,} labels",
        f"wrong labels: {100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f}), about "
        f"{share.value * m:,.0f}",
        f"missing matches: about {expected.value:,.0f} ({expected.low:,.0f} to {expected.high:,.0f}) of "
        f"{summary['unlabelled_pairs']:,} unlabelled pairs",
    ]
    if summary["duplicates"] is not None:
        counts = summary["duplicates"]
        lines.append(f"near-duplicates: {counts['images']:,} pairs of images, {counts['captions']:,} of captions")
    if "cleaned" in summary:
        cleaned = summary["cleaned"]
        lines.append(f"cleaned: {cleaned['dropped']:,} labels dropped, {cleaned['added']:,} matches added")
    return "\n".join([*lines, f"\n{out}: suspect_labels.csv, missing_matches.csv, summary.json, audit.html"])
