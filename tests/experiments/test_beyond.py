"""The propensity model's tables: they share runs by name, and a tiny run gives every number and figure."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.beyond import __main__ as beyond
from experiments.beyond import ideas
from experiments.beyond.figures import draw
from experiments.beyond.ideas import captions_together
from experiments.beyond.measure import measure
from experiments.scenes.runs import finished, make_config, result_file
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.data.loader import Pairs
from vacsr_jax.data.source import ArraySource
from vacsr_jax.image_text import build_model
from vacsr_jax.pair.base import Batch
from vacsr_jax.pair.propensity import PROPENSITY
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training import step
from vacsr_jax.training.run import set_up
from vacsr_jax.training.sharding import make_mesh


def test_tables_share_runs():
    names = {}
    for table in beyond.TABLES:
        for row in beyond.table_rows(table):
            found = pickle.loads(pickle.dumps(beyond.task(row, 0)))  # as another process gets it
            assert names.setdefault(found.name, found.fields) == found.fields
    assert "propensity-noise0.0-seed0" in names


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of a run whose model was not trained."""
    out = tmp_path_factory.mktemp("beyond")
    task = beyond.task(beyond.Row("propensity", beyond.PROPENSITY), 0)
    name, fields = task.name, task.fields
    small = {"data.train_size": 20, "data.validation_size": 20, "data.test_size": 20, "train.batch_size": 16}
    config = make_config(fields | small)
    run = set_up(config, out)
    found = measure(Pretrained(run.model, run.params, run.tokenizer), config, out / "measured" / name)
    assert 0 < found["probability"]["negative"] < 1
    assert found["noise_rate"] == pytest.approx(0.1)
    write_text(result_file(out, name), to_json({"test": dict.fromkeys(beyond.METRICS.values(), 0.5)} | found))
    return out


@pytest.mark.slow
def test_a_run_has_every_number(results):
    rows = beyond.table_rows("methods")
    table = beyond.metric_lines(rows, finished(results), range(2), "test")
    lines = [line.split(" |")[1:4] for line in table.splitlines() if line.startswith("| propensity ")]
    assert [[cell.strip() for cell in line] for line in lines[:2]] == [["0%", "1", "0.500"], ["20%", "0", "not run"]]
    controls = beyond.control_lines(beyond.table_rows("controls"), finished(results), range(1), "test")
    assert "caption length, w by true" in controls
    assert "entropy, w 1" in controls


@pytest.mark.slow
def test_the_figure_is_drawn(results, tmp_path):
    names = {0.0: ["propensity-noise0.0-seed0"], 0.5: ["propensity-noise0.5-seed0"]}
    assert draw(tmp_path, names, "propensity.png") == []
    (file,) = draw(results, names, "propensity.png")
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_penalties_by_hand():
    """Of six pairs' match logits and embeddings."""
    config, mesh = make_config(beyond.PROPENSITY), make_mesh(jax.devices()[:1])
    model = build_model(config, PRESETS["tiny"])
    rng = np.random.default_rng(0)
    images, texts = (jnp.asarray(rng.normal(size=(n, 65)), jnp.float32) for n in (2, 3))
    labels = jnp.array([[True, False, False], [False, True, True]])
    params = model.pair.init(jax.random.key(0), images, texts)["params"]
    batch = Batch(images, texts, labels, jnp.ones((2, 3), bool), None, jnp.int32(0), mesh, 512, jnp.float32)

    def loss(method):
        return float(method.loss_of_batch(model.pair, params, batch, config)[0])

    a = 10 * images[:, :-1] @ texts[:, :-1].T - np.log(63)
    column = np.var([a[1, 0], a[0, 1], a[0, 2]])
    centre = sum(np.mean(np.mean(x[:, :-1], 0) ** 2) for x in (images, texts))
    for method, penalty in ((ideas.COLUMN_3, 0.3 * column), (ideas.CENTRED, centre)):
        np.testing.assert_allclose(loss(method) - loss(PROPENSITY), penalty, rtol=1e-3)


def test_captions_of_an_image_come_together():
    source = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), [()] * 2, ["a", "b"])
    pairs = Pairs(source, np.arange(5, dtype=np.int32)[:, None], np.array([0, 1, 0, 0, 1]))
    index = np.array([2, 3, 1])
    with captions_together(2):
        assert pairs.take(index)["tokens"][..., 0].tolist() == [[2, 3], [3, 0], [1, 4]]
        batch = {"group": jnp.array([0, 0, 1])}
        labels = step.positive_pairs(batch, make_config({}), None)
    assert labels.tolist() == [[True] * 4 + [False] * 2] * 2 + [[False] * 4 + [True] * 2]
    assert pairs.take(index)["tokens"][..., 0].tolist() == [2, 3, 1]
