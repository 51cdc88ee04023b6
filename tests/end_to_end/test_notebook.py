"""The quickstart notebook runs from top to bottom, on a run it trains itself, and shows its pictures."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VACSR_WORKDIR", str(workdir))
        patch.setenv("VACSR_STEPS", "6")
        flags = os.environ["XLA_FLAGS"].split()
        flags = [flag for flag in flags if "device_count" not in flag]
        patch.setenv("XLA_FLAGS", " ".join(flags))  # one device, as a notebook has
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # six steps are not worth them
        resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(notebook, timeout=180, resources=resources).execute()  # raises if a cell does
    return {cell.id: cell.get("outputs", []) for cell in notebook.cells}, workdir


def source(cell_id):
    (cell,) = (c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.id == cell_id)
    return cell.source


def test_it_is_valid_and_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 4 <= len(code) <= 8
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_where_the_package_is_installed_nothing_is_installed():
    *_, guard = ast.parse(source("install")).body
    assert ast.unparse(guard.test) == "importlib.util.find_spec('vacsr_jax') is None"
    outside = [ast.unparse(node) for node in ast.parse(source("install")).body[:-1]]
    assert not any("pip" in line for line in outside)


def test_installing_holds_jax_and_takes_no_extra():
    text = source("install")
    assert 'in ("jax", "jaxlib")' in text
    assert '"-c", str(held)' in text
    assert '"-e", str(ROOT)]' in text  # no extra behind it
    assert not any(word in text for word in ("-U", "--upgrade"))


@pytest.mark.slow
def test_it_trains_where_no_run_is(executed):
    _, workdir = executed
    assert (workdir / "evaluation.json").is_file()


@pytest.mark.parametrize("cell", ["show", "sample"])
@pytest.mark.slow
def test_pictures_are_shown(cell, executed):
    outputs, _ = executed
    pictures = [output for output in outputs[cell] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    assert len(pictures[0]["data"]["image/png"]) > 10_000


@pytest.mark.slow
def test_no_cell_complains(executed):
    outputs, _ = executed
    printed = "".join(output.get("text", "") for cell in outputs.values() for output in cell)
    assert "Warning" not in printed
    assert all(output.output_type != "error" for cell in outputs.values() for output in cell)
