"""Whether an audit is right: `python -m experiments.audit PART`; the README says what each part does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.audit", description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("train", "scenes", "coverage", "coco500", "pictures", "cleaning", "tables"))
    parser.add_argument("--out", default="runs/experiments/audit", help="folder of runs and results")
    parser.add_argument("--models", help="of scenes: a folder of exports to audit (default: those that train keeps)")
    parser.add_argument("--data", help="of coco500: folder of features.npz")
    parser.add_argument("--emoji", help="of pictures: folder with noto, twemoji, fluent and openmoji")
    parser.add_argument("--coco", help="of pictures: folder with dataset_coco_mini159.json and images.zip")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # before jax starts
    out = Path(options.out)
    from experiments.audit import cleaning, coco500, pictures, scenes, trained
    from experiments.beyond.__main__ import share_compilations

    share_compilations(out)
    if options.part == "train":
        trained.train_all(out, options.seeds)
    elif options.part == "scenes":
        scenes.audit_models(Path(options.models or out / "measured"), out / "scenes")
    elif options.part == "coverage":
        for path in sorted(Path(options.models or out / "measured").iterdir()):
            scenes.coverage(path, out / "coverage", sets=5)
    elif options.part == "coco500":
        coco500.run(Path(options.data or "."), out / "coco500", options.seeds)
    elif options.part == "pictures":
        pictures.run(Path(options.emoji or "."), Path(options.coco or "."), out / "pictures", options.seeds)
    elif options.part == "cleaning":
        cleaning.run(out, options.seeds)
    found = (
        scenes.tables(out / "scenes"),
        scenes.coverage_table(out / "coverage"),
        coco500.tables(out / "coco500"),
        pictures.tables(out / "pictures"),
        cleaning.tables(out),
    )
    for text in found:
        print(f"{text}\n", flush=True)


if __name__ == "__main__":
    main()
