"""Every switch of a config trains, and changes the loss. The methods and theirs are in tests/parity/methods.py."""

import numpy as np
import pytest

from tests.training.steps import run_steps
from vacsr_jax.ops import precision

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]


@pytest.fixture(scope="module")
def plain(workdir):
    return run_steps(workdir, 1, **CROWDED)[0]


# Few scenes and a larger batch put several captions of an image into one batch.
CROWDED = {"train.batch_size": 32, "data.train_size": 20}


RECIPE = {
    "model.pooling": "gpo",
    "model.embedding_dim": 32,
    "model.preprocess": "pcmepp",
    "augment.images": "pcmepp",
    "augment.tokens": 0.2,
    "augment.image_tokens": 0.2,
    "augment.mix": 0.5,
    "augment.label_smoothing": 1e-4,
    "optim.name": "adamp",
    "optim.decayed": "all",
    "optim.schedule": "step",
    "optim.image_frozen_steps": 1,
    "optim.ramp_steps": 2,
    "optim.layer_decay": 0.7,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"loss.kl": 0.0},
        {"loss.positive": 0.0, "loss.negative": 0.0},
        {"adapter.components": 1},
        {"adapter.components": 4},
        {"adapter.hard_gumbel": True},
        {"adapter.base_rate_bias": False},
        {"loss.reduction": "mean"},
        {"data.positives": "diagonal"},
        {"data.noise": 0.5, "data.noise_protocol": "image"},
        {"model.dtype": "bfloat16"},
        RECIPE,
    ],
    ids=str,
)
def test_every_switch_trains_and_matters(workdir, plain, fields):
    changed = run_steps(workdir, 1, **CROWDED | fields)[0]
    assert all(np.isfinite(value) for terms in changed for value in terms.values())
    assert changed[-1]["loss"] != plain[-1]["loss"]


def test_a_bfloat16_step_is_alike_with_and_without_units_for_it(workdir, monkeypatch):
    losses = []
    for units in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16_units", lambda units=units: units)
        losses.append([terms["loss"] for terms in run_steps(workdir, 1, **{"model.dtype": "bfloat16"})[0]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
    assert losses[0] != losses[1]
