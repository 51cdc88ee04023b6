"""The notebooks of `experiments/notebooks/`, with the outputs that are stored in them, become pages of the site."""

import base64
import re
from pathlib import Path

import nbformat
from mkdocs.structure.files import File, Files

FOLDER = "experiments/notebooks"
ROOT = Path(__file__).parents[2]
BADGE = re.compile(r"\[!\[([^\]]*)\]\([^)]*\)\]")


def on_files(files: Files, config) -> Files:
    for path in sorted((ROOT / FOLDER).glob("*.ipynb")):
        notebook, pictures = nbformat.read(path, as_version=4), {}
        text = "\n\n".join(part for cell in notebook.cells for part in parts(cell, path.stem, pictures))
        files.append(File.generated(config, f"{FOLDER}/{path.stem}.md", content=text + "\n"))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files


def parts(cell, stem: str, pictures: dict[str, bytes]):
    """A cell as Markdown; its pictures are added to `pictures`."""
    if cell.cell_type == "markdown":
        yield BADGE.sub(r"[\1]", cell.source)  # a badge is a picture on another host
        return
    yield f"```python\n{cell.source}\n```"
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}_{len(pictures)}.png"
            pictures[name] = base64.b64decode(data["image/png"])
            yield f"![output of the cell above]({name})"
        elif text := output.get("text") or data.get("text/plain"):
            yield f"```\n{text.rstrip()}\n```"
