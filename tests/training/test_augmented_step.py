"""A step augments its batch before the towers see it, on eight devices as on one."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import scenes
from vacsr_jax.image_text import build_model
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.sharding import shard_batch
from vacsr_jax.training.step import augment, positive_pairs


@pytest.mark.usefixtures("compile_fast")
def test_mixing_on_eight_devices_is_that_of_one():
    config = scenes.get_config("method=pcmepp")
    changes = {"augment.mix": 0.5, "augment.image_tokens": 0.2, "augment.label_smoothing": 0.1}
    config.update_from_flattened_dict(changes)
    model = build_model(config, PRESETS["tiny"])
    rng = np.random.default_rng(0)
    batch = {"images": rng.integers(0, 255, (16, 32, 32, 3), np.uint8), "group": np.arange(16, dtype=np.int32) // 2}
    found = []

    @jax.jit
    def mixed(batch):
        return augment(batch["images"], positive_pairs(batch, config, None), jax.random.key(0), config, model)

    for devices in (1, 8):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        found.append(mixed(shard_batch(batch, mesh)))
    for one, eight in zip(*found, strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-5)  # Beta draws differ in their last digits
    images, keep, labels = found[0]
    assert images.shape == (16, 32, 32, 3)
    assert keep.shape == (16, 4)
    np.testing.assert_allclose(labels[:, 0::2], labels[:, 1::2])  # both captions of an image are treated alike
    assert len(np.unique(labels)) > 4
