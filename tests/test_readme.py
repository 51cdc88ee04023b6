"""The README's commands come early, and everything that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_in_the_first_40_lines_with_their_output():
    head = "\n".join(README.splitlines()[:40])
    assert "pip install -e . && vacsr train --config=configs/scenes.py --workdir=runs/scenes" in head
    assert 'pip install -e ".[test]" && pytest' in head
    assert "true/mAP@R" in head
    assert "passed" in head


def test_every_file_it_names_exists():
    named = re.findall(r"\]\(([^)#:]+)\)|`((?:vacsr_jax|configs|experiments|tests)/[\w./]*)`", README)
    paths = [a or b for a, b in named]
    assert len(paths) > 5
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_ci_runs_its_commands():
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'pip install -q -e ".[test]" && pytest' in ci
    assert "vacsr train --config=configs/scenes.py --workdir=" in ci


def test_every_verb_and_extra_is_mentioned():
    for verb in (
        "vacsr train",
        "vacsr evaluate",
        "vacsr embed",
        "vacsr export",
        "vacsr evaluate-matrix",
        "vacsr standardize fit",
    ):
        assert verb in README
    extras = re.findall(r'^        "(\w+)":', (ROOT / "setup.py").read_text(), re.M)
    assert {"cuda", "tpu", "tfds", "search", "notebook", "test", "dev"} <= set(extras)
