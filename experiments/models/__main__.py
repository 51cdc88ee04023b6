"""Makes the models of `vacsr_jax/models/`: `python -m experiments.models [NAME ...]`.

Each is trained by `vacsr train` in a folder of --runs, unless a finished run or an export is there. It is then exported
in half precision and evaluated as it is shipped, on the test split of scenes. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from vacsr_jax.shipped_models import CARD, MODELS


class Recipe(NamedTuple):
    """What a model is, in one line, and the options of `vacsr train` that make it."""

    about: str
    options: tuple[str, ...]


PROPENSITY = "--config=scenes:method=propensity"
RECIPES = {
    "scenes": Recipe(
        "scenes: every token of a caption finds its place in the picture; match and label apart (propensity, tokens)",
        (PROPENSITY, "--config.propensity.match=tokens"),
    ),
    "scenes-claims": Recipe(
        "scenes: a match is four claims that all hold; match and label apart (propensity, conjunction)",
        (PROPENSITY, "--config.propensity.match=conjunction"),
    ),
    "scenes-vacsr": Recipe("scenes: the paper's model, a similarity with uncertainty (vacsr)", ("--config=scenes",)),
    "scenes-web": Recipe(
        "towers to start from, trained on a web without scenes (infonce): --config.model.pretrained=scenes-web",
        ("--config=scene_web",),
    ),
}
METRICS = {
    "mAP@R, truth": "true/mAP@R",
    "nDCG, truth": "true/nDCG",
    "ECE, truth": "true/ECE",
    "R@1 i2t": "i2t/R@1",
    "R@1 t2i": "t2i/R@1",
    "rsum": "rsum",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.models", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--runs", default="runs/models", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the table of the models that are there")
    options = parser.parse_args()
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"unknown model {', '.join(sorted(unknown))}; expected some of {', '.join(RECIPES)}")
    if not options.table:
        for name in options.names or RECIPES:
            make(name, RECIPES[name], Path(options.runs) / name)
    print(table())


def make(name: str, recipe: Recipe, trained: Path) -> None:
    """Trains a model, unless `trained` holds it, and writes it to the package with its card."""
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.main import main as vacsr
    from vacsr_jax.pretrained import is_export, load

    commands = [("train", *recipe.options, f"--workdir=runs/models/{name}")]
    commands.append(("export", f"--model=runs/models/{name}", f"--out=vacsr_jax/models/{name}", "--half"))
    if not is_export(trained):
        vacsr(["train", *recipe.options, f"--workdir={trained}"])
    load(trained).save(MODELS / name, half=True)
    card = {
        "about": recipe.about,
        "commands": [shlex.join(["vacsr", *command]) for command in commands],
        **evaluation(name),
    }
    write_text(MODELS / name / CARD, to_json(card))


def evaluation(name: str) -> dict[str, Any]:
    """The seed, the step and the metrics of a shipped model on the test split, by the protocol of `vacsr evaluate`."""
    from vacsr_jax.cli.evaluate import run_config
    from vacsr_jax.data.datasets import open_split
    from vacsr_jax.evaluation.loaded_model import evaluate_captions
    from vacsr_jax.evaluation.protocol import describe_protocol
    from vacsr_jax.pretrained import load

    model = load(MODELS / name)
    config = run_config(model, name, [])
    source = open_split(config, "test")
    return {
        "seed": config.seed,
        "step": model.step,
        "protocol": describe_protocol(config, source, "test", model),
        "test": evaluate_captions(model, source).metrics,
    }


def table() -> str:
    from vacsr_jax.atomic_files import read_json
    from vacsr_jax.report.tables import format_table
    from vacsr_jax.shipped_models import shipped

    rows = []
    for name in shipped():
        card = read_json(MODELS / name / CARD)
        size = sum(file.stat().st_size for file in (MODELS / name).rglob("*") if file.is_file())
        rows.append([name, *(card["test"].get(metric) for metric in METRICS.values()), f"{size / 1e6:.2f}"])
    return format_table(rows, ["", *METRICS, "MB"], markdown=True)


if __name__ == "__main__":
    main()
