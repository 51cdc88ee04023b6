"""The notebooks run from top to bottom outside the repository, shrunk, and their stored outputs show pictures."""

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from experiments.notebooks.__main__ import HERE, NAMES, ROOT, execute

SHRUNK = {
    "quickstart": "STEPS, TRAIN_SIZE = 6, 200",
    "mixed_search": "SCENES = 200",
    "audit": "PICTURES = 40",
}
PICTURES = {
    "quickstart": ["show", "explain", "search", "sample", "own"],
    "mixed_search": ["diagnose"],
    "audit": ["show"],
}


def stored(name):
    return nbformat.read(HERE / f"{name}.ipynb", as_version=4)


def source(name, cell_id):
    [cell] = (cell for cell in stored(name).cells if cell.id == cell_id)
    return cell.source


def pictures(notebook):
    """The cells that show one picture of some size."""
    shown = {}
    for cell in notebook.cells:
        found = [
            output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        if found:
            assert len(found) == 1
            assert len(found[0]) > 5_000
            shown[cell.id] = found[0]
    return list(shown)


def test_these_are_all_notebooks():
    assert sorted(SHRUNK) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_stored_with_its_pictures(name):
    notebook = stored(name)
    nbformat.validate(notebook)
    assert pictures(notebook) == PICTURES[name]
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"][-1] is not None
    text = (HERE / f"{name}.ipynb").read_text(encoding="utf-8")
    assert not any(word in text for word in ("Warning", "Traceback", "/home/", "/root/", "/tmp/"))


@pytest.mark.parametrize("name", NAMES)
def test_its_badge_opens_it_in_colab(name):
    repository = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["extra"]["repository"]
    path = f"{repository.removeprefix('https://github.com/')}/blob/main/experiments/notebooks/{name}.ipynb"
    assert f"(https://colab.research.google.com/github/{path})" in source(name, "intro")
    assert f"git+{repository}" in source(name, "install")


@pytest.mark.parametrize("name", NAMES)
def test_where_the_package_is_installed_nothing_is_installed(name):
    *_, guard = ast.parse(source(name, "install")).body
    assert ast.unparse(guard.test) == "importlib.util.find_spec('vacsr_jax') is None"
    outside = [ast.unparse(node) for node in ast.parse(source(name, "install")).body[:-1]]
    assert not any("pip" in line for line in outside)


@pytest.mark.parametrize("name", NAMES)
def test_installing_needs_no_clone_holds_jax_and_takes_no_extra(name, monkeypatch):
    ran = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    exec(source(name, "install"), {})
    [[python, *words, constraint, held, package]] = ran
    assert (python, words, constraint) == (sys.executable, ["-m", "pip", "install", "-q"], "-c")
    assert package.startswith("git+https://")
    jax = importlib.metadata.version("jax")
    assert f"jax=={jax}" in Path(held).read_text().splitlines()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_it_runs_outside_the_repository(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a notebook has
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # six steps are not worth them
    notebook = execute(name, tmp_path, SHRUNK[name])
    assert pictures(notebook) == PICTURES[name]
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Warning" not in printed
