"""What the pages under docs/, experiments/, tests/ and vacsr_jax/ name exists: links, files and modules to run."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for folder in ("docs", "experiments", "tests", "vacsr_jax") for page in (ROOT / folder).rglob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    paths = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    paths += [ROOT / path for path in re.findall(r"`((?:vacsr_jax|configs|experiments|tests)/[\w./]*)`", text)]
    for name in re.findall(r"python -m ((?:experiments|tests)[\w.]*)", text):
        module = ROOT / name.replace(".", "/")
        paths.append(module / "__main__.py" if module.is_dir() else module.with_suffix(".py"))
    assert [str(path) for path in paths if not path.exists()] == []


def test_every_experiment_has_a_page():
    folders = [path for path in (ROOT / "experiments").iterdir() if (path / "__init__.py").exists()]
    assert folders
    assert [folder.name for folder in folders if not (folder / "README.md").exists()] == []


def test_every_page_is_in_the_sites_navigation():
    """Tables of results are reached from the page of their experiment."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = str(site["nav"])
    names = [str(page.relative_to(ROOT)).removeprefix("docs/") for page in PAGES if "results" not in page.parts]
    assert [name for name in names if f"'{name}'" not in listed] == []
