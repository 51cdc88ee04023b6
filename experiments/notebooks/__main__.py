"""Executes the notebooks, each in an empty folder, and stores what they show.

python -m experiments.notebooks
python -m experiments.notebooks quickstart
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMES = sorted(path.stem for path in HERE.glob("*.ipynb"))


def execute(name: str, folder: Path, parameters: str = "") -> nbformat.NotebookNode:
    """The notebook, executed in a folder. `parameters`, lines of Python, follow its cell of that name."""
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if cell.id == "parameters"]
    stored = cell.source
    cell.source = f"{stored}\n{parameters}".rstrip()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # the package of this checkout
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    client = NotebookClient(
        notebook, timeout=600, coalesce_streams=True, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)  # raises if a cell does
    cell.source = stored
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help=f"notebooks (default: {', '.join(NAMES)})")
    for name in parser.parse_args().names:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(name, Path(folder))
        nbformat.write(executed, HERE / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - start:.0f} s")
