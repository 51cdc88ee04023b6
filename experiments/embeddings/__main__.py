"""When does an adapter on frozen embeddings gain anything over their cosine? One command per part:

python -m experiments.embeddings coco500 --data=FOLDER           five-fold cross-validation on 500 real COCO images
python -m experiments.embeddings scenes --towers=MODEL            every method on frozen embeddings, against the truth
python -m experiments.embeddings emoji --towers=MODEL --data=FOLDER   the same on real pictures
python -m experiments.embeddings curve --towers=MODEL             from how many pairs on: scenes, against the truth
python -m experiments.embeddings calibration --data=FOLDER        what `vacsr calibrate` finds, beside what is known

Each prints tables with standard errors, and keeps every run below --out, where a later call finds it. README.md has
the results.
"""

from __future__ import annotations

import argparse

from experiments.embeddings import calibration, coco500, curve, frozen
from vacsr_jax.compilation_cache import keep_compiled
from vacsr_jax.main import quiet

OUT = "runs/experiments/embeddings"
RUN = {
    "coco500": coco500.run,
    "scenes": frozen.run_scenes,
    "emoji": frozen.run_emoji,
    "curve": curve.run,
    "calibration": calibration.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.embeddings",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parts = parser.add_subparsers(required=True, metavar="EXPERIMENT")
    for name, run in RUN.items():
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        part.add_argument("--out", default=OUT, help=f"folder of runs and tables (default: {OUT})")
        if name in ("scenes", "emoji", "curve"):
            part.add_argument("--towers", required=True, help="a trained model, whose towers stay as they are")
        if name in ("coco500", "calibration"):
            part.add_argument("--data", required=True, help="folder with features.npz")
        if name == "emoji":
            part.add_argument("--data", required=True, help=f"folder with {frozen.TRAIN_ON} and {frozen.TEST_ON}")
        if name != "calibration":
            part.add_argument("--methods", default="", help="methods, separated by commas (default: all)")
    options = parser.parse_args()
    quiet()
    keep_compiled()
    options.run(options)


if __name__ == "__main__":
    main()
