"""The recipe on Ray Data with two local workers: the files of one process."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small_models import untrained
from vacsr_jax.main import main

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("ray.data", reason="needs the extra ray")

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    paths = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_write_the_files_of_one_process(cluster, tmp_path):
    from experiments.ray.embed import embed

    untrained().save(tmp_path / "model")
    pictures, rng = tmp_path / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    for i in range(50):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(pictures / f"{i:02d}.png")
    (tmp_path / "t.txt").write_text("a red circle\na blue square\na circle")
    inputs = {"model": str(tmp_path / "model"), "images": str(pictures), "texts": str(tmp_path / "t.txt")}
    one, by_ray = (tmp_path / name for name in ("one", "by_ray"))
    main(["embed", *(f"--{name}={value}" for name, value in inputs.items()), f"--out={one}", "--part_size=5"])
    assert embed(**inputs, out=str(by_ray), workers=2, part_size=5) == 53
    assert {x.name: x.read_bytes() for x in by_ray.iterdir()} == {x.name: x.read_bytes() for x in one.iterdir()}
    assert embed(**inputs, out=str(by_ray), workers=2, part_size=5) == 0
