"""The package as it is installed: the published configs travel with it, and its version is stated once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import vacsr_jax

ROOT = Path(__file__).parents[1]
CONFIGS = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.py")}


def test_a_built_package_lists_and_loads_the_published_configs_from_an_empty_folder(tmp_path):
    """`.ci/run` does the same with a wheel and a source distribution in new environments."""
    library, empty = tmp_path / "lib", tmp_path / "empty"
    empty.mkdir()
    build = [sys.executable, "-W", "ignore", "setup.py", "-q", "build", f"--build-base={tmp_path / 'build'}"]
    subprocess.run([*build, f"--build-lib={library}"], cwd=ROOT, check=True, capture_output=True)
    inside = library / "vacsr_jax" / "published" / "configs"
    assert {path.name: path.read_bytes() for path in inside.glob("*.py")} == CONFIGS
    modules = {path.relative_to(library) for path in library.rglob("*.py") if "published" not in path.parts}
    assert modules == {path.relative_to(ROOT) for path in (ROOT / "vacsr_jax").rglob("*.py")}
    models = sorted(path.relative_to(ROOT) for path in (ROOT / "vacsr_jax/models").rglob("*") if path.suffix != ".md")
    assert [path for path in models if path.suffix and not (library / path).exists()] == []
    code = (
        "from vacsr_jax.config_files import load_config, published; "
        "print(*published(), load_config('scenes:noise=0.5', []).data.noise, load_config('mine.py', []).train.steps)"
    )
    (empty / "mine.py").write_bytes(CONFIGS["scenes.py"])
    environment = {**os.environ, "PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = sorted(Path(name).stem for name in CONFIGS if name != "__init__.py")
    assert done.stdout.split() == [*names, "0.5", "3000"]


def test_the_version_is_stated_once_and_the_other_files_agree():
    version = vacsr_jax.__version__
    assert f'version="{version}"' not in (ROOT / "setup.py").read_text()
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_what_the_papers_of_the_repository_name_exists():
    for page in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "NOTICE"):
        text = (ROOT / page).read_text()
        named = re.findall(r"\]\(([^)#:]+)\)", text)
        named += re.findall(r"`((?:vacsr_jax|configs|experiments|tests|\.ci)/[\w./]*)`", text)
        assert [path for path in named if not (ROOT / path).exists()] == [], page


def test_every_page_and_file_names_the_same_repository():
    site = (ROOT / "mkdocs.yml").read_text()
    [repository] = re.findall(r"^  repository: https://(\S+)", site, re.M)
    files = [ROOT / name for name in ("README.md", "setup.py", "mkdocs.yml", "CONTRIBUTING.md")]
    files += [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "docs").glob("*.md")]
    files += (ROOT / "experiments/notebooks").glob("*.ipynb")
    named = {name for file in files for name in re.findall(r"github\.com/vacsr[\w-]*/[\w-]+", file.read_text())}
    assert named == {repository}
