"""Training on class texts: equal in chunks or whole and on several devices, its memory, and its schedule."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from configs import base_to_novel
from vacsr_jax.training.run import set_up, with_steps
from vacsr_jax.training.sharding import make_mesh
from vacsr_jax.training.step import embed_classes

COLOURS = [(200, 30, 30), (30, 160, 40), (40, 60, 210), (220, 200, 40), (120, 40, 160), (70, 200, 210)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten classes of noisy colours, two training images each."""
    root = tmp_path_factory.mktemp("data")
    for label in range(10):
        for split, count in (("train", 2), ("test", 1)):
            for i in range(count):
                file = root / "colours" / split / f"class_{label}" / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), COLOURS[(label + i) % 6]).save(file)
    return root


def small_config(root):
    config = base_to_novel.get_config(f"dataset=colours,root={root},method=sigmoid")
    changes = {
        "model.pretrained": "",
        "data.subset": "all",
        "data.shots": 2,
        "train.batch_size": 8,
        "data.template": "{}",
    }
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return set_up(small_config(root), tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_chunks_and_devices_change_nothing_but_the_memory(run):
    tokens = np.tile(run.class_tokens, (40, 1))[:393]
    weights = np.random.default_rng(0).normal(size=(393, 64)).astype(np.float32)

    def gradients(devices, chunk):
        mesh = make_mesh(jax.devices()[:devices])

        def loss(params):
            texts = embed_classes(params, tokens, model=run.model, mesh=mesh, chunk=chunk)
            assert texts.shape == weights.shape
            return (texts * weights).sum()

        compiled = jax.jit(jax.grad(loss), in_shardings=NamedSharding(mesh, P())).lower(run.params).compile()
        return jax.device_get(compiled(run.params)), compiled.memory_analysis().temp_size_in_bytes

    (whole, whole_bytes), (chunked, chunked_bytes) = gradients(1, 1000), gradients(2, 49)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), whole, chunked)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(whole["towers"]["text"]))
    assert chunked_bytes < whole_bytes / 4


def test_an_epoch_is_its_whole_batches_and_without_validation_there_is_none(run):
    assert run.config.train.steps == 5 * (20 // 8)
    assert run.validation is None
    assert with_steps(run.config, 3).train.steps == 5


def test_the_first_logit_is_the_base_rate_of_a_class(run):
    assert run.model.pair.initial_logit == pytest.approx(-np.log(9))
