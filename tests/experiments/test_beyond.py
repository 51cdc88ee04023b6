"""The tables of the propensity model: runs are shared by name, and a tiny run gives every number and figure."""

import pytest

from experiments.beyond import __main__ as beyond
from experiments.beyond.figures import draw
from experiments.beyond.measure import measure
from experiments.scenes.runs import finished, make_config, result_file
from vacsr_jax.files import to_json, write_text
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.training.run import set_up


def test_tables_share_runs():
    names = {}
    for table in beyond.TABLES:
        for _, fields, noise in beyond.table_rows(table):
            found = beyond.task(fields, noise, 0)
            assert names.setdefault(found.name, found.fields) == found.fields
    assert "propensity-noise0.0-seed0" in names


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a run leaves, of a model that was not trained."""
    out = tmp_path_factory.mktemp("beyond")
    name, fields = beyond.task({"method": "propensity"}, 0.0, 0)
    small = {"data.train_size": 20, "data.validation_size": 20, "data.test_size": 20, "train.batch_size": 16}
    config = make_config(fields | small)
    run = set_up(config, out)
    found = measure(Pretrained(run.model, run.params, run.tokenizer), config, out / "measured" / name)
    assert 0 < found["probability"]["negative"] < 1
    assert found["noise_rate"] == pytest.approx(0.1)
    write_text(result_file(out, name), to_json({"test": dict.fromkeys(beyond.METRICS.values(), 0.5)} | found))
    return out


def test_a_run_has_every_number(results):
    rows = beyond.table_rows("methods")
    table = beyond.metric_lines(rows, finished(results), range(1))
    lines = [line for line in table.splitlines() if line.startswith("| propensity")]
    assert "not run" not in lines[0]
    assert "not run" in lines[1]
    controls = beyond.control_lines(beyond.table_rows("controls"), finished(results), range(1))
    assert "caption length, w by true" in controls
    assert "entropy, w 1" in controls


def test_the_figure_is_drawn(results, tmp_path):
    assert draw(tmp_path, range(1)) == []
    (file,) = draw(results, range(1))
    assert file.read_bytes().startswith(b"\x89PNG")
