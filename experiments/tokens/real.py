"""Token matching on real pictures, from towers that InfoNCE has trained on others: `python -m experiments.tokens.real`.

The towers see the emoji of two vendors. Each method goes on from them, on the emoji of a third vendor (--emoji; the
fourth is the test) or on 64 photographs of COCO (--coco; 79 others are the test). Finished runs are kept under --out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from experiments.beyond.trained import unpacked
from experiments.emoji.__main__ import TRAIN, UNSEEN
from experiments.emoji.grid import measure as measure_emoji
from experiments.scenes.__main__ import mean_and_error
from experiments.scenes.runs import result_file, share_compilations
from experiments.tokens.__main__ import MODELS
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.evaluation.loaded_model import evaluate_captions
from vacsr_jax.main import quiet
from vacsr_jax.pretrained import load_workdir
from vacsr_jax.report.tables import format_table
from vacsr_jax.training.loop import train

SEEDS = 3
SHORT = {"train.steps": 400, "optim.warmup_steps": 100, "checkpoint.every": 100}
# 16 patches of 8 pixels: more places than a scene has, and none of them an object.
TOWERS = {"model.towers": "tiny/8", "model.image_size": 32, "train.steps": 2000, "checkpoint.every": 200}
ZERO_SHOT = "zero-shot"
LEARNS: dict[str, dict] = {"trained": {}, "frozen": {"optim.frozen": ["towers/*"]}}
METRICS = ("rsum", "nDCG")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tokens.real", description=__doc__.split("\n")[0])
    parser.add_argument("--emoji", required=True, help="folder with noto, twemoji, fluent and openmoji")
    parser.add_argument("--coco", help="folder with dataset_coco_mini159.json and images.zip")
    parser.add_argument("--out", default="runs/experiments/tokens/real", help="folder of runs and results")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    options = parser.parse_args()
    quiet()
    emoji, out = Path(options.emoji), Path(options.out)
    share_compilations(out)
    train_on = {"emoji": emoji / UNSEEN[0]}
    if options.coco:
        train_on["coco_mini159"] = coco_folder(Path(options.coco), out)
    for seed in range(options.seeds):
        towers = train_towers(emoji, out, seed)
        for data, folder in train_on.items():
            run(out, data, ZERO_SHOT, seed, towers, emoji, folder)
            for learns, frozen in LEARNS.items():
                for name, fields in MODELS.items():
                    workdir = out / "workdirs" / f"{data}-{name}-{learns}-seed{seed}"
                    start = {"model.pretrained": str(towers), "model.image_size": 0, "seed": seed}
                    if not result_file(out, workdir.name).exists():
                        fit(str(folder), {**fields, **SHORT, **start, **frozen}, workdir)
                    run(out, data, f"{name}-{learns}", seed, workdir, emoji, folder)
    print(table(out, list(train_on), options.seeds))


def train_towers(emoji: Path, out: Path, seed: int) -> Path:
    """The workdir of the towers of a seed, trained unless they are there."""
    workdir = out / f"towers-seed{seed}"
    path = ",".join(str(emoji / vendor) for vendor in TRAIN)
    fit(path, {"method": "infonce", **TOWERS, "seed": seed}, workdir)
    return workdir


def coco_folder(data: Path, out: Path) -> Path:
    entries = json.loads((data / "dataset_coco_mini159.json").read_text(encoding="utf-8"))["images"]
    return unpacked(data / "images.zip", entries, out / "pictures")


def fit(path: str, fields: dict, workdir: Path) -> None:
    config = load_config(f"configs/image_folder.py:path={path}", [])
    config.update_from_flattened_dict(fields)
    train(config, workdir)


def run(out: Path, data: str, row: str, seed: int, workdir: Path, emoji: Path, folder: Path) -> None:
    """Writes the numbers of a run's best checkpoint on the test pictures, once."""
    file = result_file(out, f"{data}-{row}-seed{seed}")
    if file.exists():
        return
    best = load_workdir(workdir, "best")
    if data == "emoji":
        found = measure_emoji(emoji, best, UNSEEN[1:])
    else:
        found = {"rsum": evaluate_captions(best, read_image_folder(folder, split="test")).metrics["rsum"]}
    write_text(file, to_json({"step": best.step, **found}))
    print(file.stem, flush=True)


def table(out: Path, data: list[str], seeds: int) -> str:
    """Means and standard errors over the finished seeds; "not run" if there are none."""

    def cell(name, row, metric):
        files = [result_file(out, f"{name}-{row}-seed{seed}") for seed in range(seeds)]
        runs = [json.loads(file.read_text()) for file in files if file.exists()]
        return mean_and_error([run[metric] for run in runs]) if runs else "not run"

    columns = [(name, metric) for name in data for metric in METRICS if metric == "rsum" or name == "emoji"]
    rows = [ZERO_SHOT, *(f"{name}-{learns}" for learns in LEARNS for name in MODELS)]
    lines = [[row, *(cell(name, row, metric) for name, metric in columns)] for row in rows]
    return format_table(lines, ["", *(f"{name}: {metric}" for name, metric in columns)], markdown=True)


if __name__ == "__main__":
    main()
