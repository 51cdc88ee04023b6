"""Every switch of a config trains, and changes the loss."""

import numpy as np
import pytest

from tests.training.steps import run_steps

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture(scope="module")
def plain(workdir):
    return run_steps(workdir, 1, **CROWDED)[0]


# Few scenes and a larger batch, so that captions of one image meet in a batch.
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
        {"adapter.sigmoid": False},
        {"adapter.components": 1},
        {"adapter.components": 4},
        {"adapter.decoder_width": 32},
        {"adapter.embeddings": "raw"},
        {"adapter.hard_gumbel": True},
        {"adapter.base_rate_bias": False},
        {"adapter.width": 128},
        {"loss.hard_negatives": 3},
        {"loss.hard": "loss"},
        {"loss.reduction": "mean"},
        {"data.positives": "diagonal"},
        {"data.noise": 0.5, "data.noise_protocol": "image"},
        {"model.dtype": "bfloat16"},
        RECIPE,
        {"method": "propensity", "propensity.match": "conjunction"},
        {"method": "propensity", "propensity.match": "deterministic"},
        {"method": "propensity", "propensity.match": "vacsr"},
        {"method": "propensity", "propensity.plateau": False, "propensity.noise_floor": False},
        {"method": "triplet", "triplet.all_negatives_steps": 1},
    ],
    ids=str,
)
def test_every_switch_trains_and_matters(workdir, plain, fields):
    changed = run_steps(workdir, 1, **CROWDED | fields)[0]
    assert all(np.isfinite(value) for terms in changed for value in terms.values())
    assert changed[-1]["loss"] != plain[-1]["loss"]
