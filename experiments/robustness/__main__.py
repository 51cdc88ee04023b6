"""Faults done to real runs, and a long run watched: the tables of this folder.

`python -m experiments.robustness` runs everything; `--only damage disk` runs some parts. The rows of each part are kept
under --out as JSON. The table of all finished parts is printed and written to `faults.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from experiments.robustness import disk, faults, pairs

SOAK_STEPS = 20_000
PARTS = {
    "signals": faults.signal_rows,
    "lock": faults.lock_rows,
    "damage": disk.damage_rows,
    "disk": disk.full_disk_rows,
    "topologies": disk.topology_rows,
    "pair": pairs.pair_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.robustness", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "soak"), default=(*PARTS, "soak"))
    parser.add_argument("--out", type=Path, default=Path("runs/experiments/robustness"), help="folder of runs and rows")
    parser.add_argument(
        "--table", action="store_true", help="print the table of finished parts, without running anything"
    )
    options = parser.parse_args()
    out = options.out.absolute()
    for part in () if options.table else options.only:
        if part == "soak":
            from experiments.robustness.soak import soak

            soak(out, SOAK_STEPS)
        else:
            rows = PARTS[part](out)
            write(
                out / f"rows-{part}.json", [row._asdict() for row in ([rows] if isinstance(rows, faults.Row) else rows)]
            )
    print(tables(out))
    write(out / "faults.md", tables(out))


def write(path: Path, what: object) -> None:
    path.write_text(what if isinstance(what, str) else json.dumps(what, indent=2))


def tables(out: Path) -> str:
    """Returns the tables of the faults and of the soak in Markdown."""
    from vacsr_jax.report.tables import format_table

    found = [out / f"rows-{part}.json" for part in PARTS]
    rows = [row for path in found if path.exists() for row in json.loads(path.read_text())]
    lines = ["| fault | what happened | lost | as it should |", "|---|---|---|---|"]
    lines += [
        f"| {row['fault']} | {row['happened']} | {row['lost']} | {'yes' if row['ok'] else 'NO'} |" for row in rows
    ]
    text = "\n".join(lines)
    if (out / "soak.json").exists():
        from experiments.robustness import soak

        samples = soak.read(out)
        grown = [[soak.CURVES[name], *values] for name, values in soak.growth(samples).items()]
        columns = [f"{samples[-1]['step']:,} steps, median of", *(f"tenth {n}" for n in soak.TENTHS)]
        text += "\n\n" + format_table(grown, columns, markdown=True, digits=1)
    return text + "\n"


if __name__ == "__main__":
    main()
