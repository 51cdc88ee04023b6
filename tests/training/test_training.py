"""One step: the same on one and on eight devices, replicated or sharded, tiled or not; compiled once."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import scenes
from vacsr_jax.data.loader import batch_at
from vacsr_jax.models.clip_config import CLIP_CONFIGS
from vacsr_jax.models.image_text import build_model
from vacsr_jax.training.loop import start
from vacsr_jax.training.run import set_up
from vacsr_jax.training.sharding import shard_batch, state_sharding
from vacsr_jax.training.step import augment

METHODS = ("infonce", "sigmoid", "deterministic", "vacsr")
STEPS = 3


def small_config(method="vacsr", **fields):
    config = scenes.get_config(f"method={method}")
    changes = {"data.train_size": 60, "data.validation_size": 10, "train.batch_size": 16, "train.steps": 10}
    changes |= {"optim.warmup_steps": 2, "train.tile_pairs": 40}
    config.update_from_flattened_dict(changes | fields)
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def run_steps(workdir, devices, method="vacsr", **fields):
    """Terms of the first steps, the parameters after them, and how often the step was compiled."""
    config = small_config(method, **fields)
    run = set_up(config, workdir)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    state, step = start(run, mesh)
    terms = []
    for number in range(STEPS):
        batch = batch_at(run.pairs, number, batch_size=config.train.batch_size, seed=config.seed)
        batch.pop("index")
        before = state
        state, new = step(state, shard_batch(batch, mesh))
        terms.append(jax.device_get(new))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "the old state's memory is not reused"
    return terms, jax.device_get(state.params), step._cache_size()


@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_do_what_one_does(workdir, method):
    one, params_one, compiled = run_steps(workdir, 1, method)
    eight, params_eight, compiled_eight = run_steps(workdir, 8, method)
    assert compiled == compiled_eight == 1
    for a, b in zip(one, eight, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)
    # Adam's first steps have the size of the learning rate whatever the gradient: 1e-4 is a fraction of one step.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params_one, params_eight)


def test_mixing_on_eight_devices_is_that_of_one():
    config = small_config("pcmepp", **{"augment.mix": 0.5, "augment.image_tokens": 0.2, "augment.label_smoothing": 0.1})
    model = build_model(config, CLIP_CONFIGS["tiny"])
    rng = np.random.default_rng(0)
    batch = {"images": rng.integers(0, 255, (16, 32, 32, 3), np.uint8), "group": np.arange(16, dtype=np.int32) // 2}
    found = []
    for devices in (1, 8):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        found.append(jax.jit(lambda batch: augment(batch, jax.random.key(0), config, model))(shard_batch(batch, mesh)))
    for one, eight in zip(*found, strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-6)
    images, keep, labels = found[0]
    assert images.shape == (16, 32, 32, 3)
    assert keep.shape == (16, 4)
    np.testing.assert_allclose(
        np.asarray(labels).max(axis=1)[:1], labels[0, 1]
    )  # both captions of an image, mixed or not
    assert len(np.unique(labels)) > 4


def test_sharded_parameters_do_what_copies_do(workdir):
    copies, params, _ = run_steps(workdir, 8)
    shards, sharded, compiled = run_steps(workdir, 8, **{"train.shard_params": True})
    assert compiled == 1
    for a, b in zip(copies, shards, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, sharded)


def test_parameters_are_really_split(workdir):
    config = small_config()
    run = set_up(config, workdir)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shardings = state_sharding(run.params, mesh, shard_params=True)
    params = jax.device_put(run.params, shardings)
    kernel = params["pair"]["trunk_kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 64)}


def test_tiles_change_nothing(workdir):
    tiled = run_steps(workdir, 1, **{"train.tile_pairs": 24})[0]
    whole = run_steps(workdir, 1, **{"train.tile_pairs": 10**6})[0]
    for a, b in zip(tiled, whole, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)


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
        {"method": "triplet", "triplet.all_negatives_steps": 1},
    ],
    ids=str,
)
def test_every_switch_trains_and_matters(workdir, plain, fields):
    changed = run_steps(workdir, 1, **CROWDED | fields)[0]
    assert all(np.isfinite(value) for terms in changed for value in terms.values())
    assert changed[-1]["loss"] != plain[-1]["loss"]


def test_a_batch_that_does_not_divide_is_an_error(workdir):
    with pytest.raises(ValueError, match=r"train\.batch_size: got 12, expected a multiple of 8"):
        run_steps(workdir, 8, **{"train.batch_size": 12})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "vacrs"),
        ("model.clip", "ViT-B/31"),
        ("model.dtype", "float16"),
        ("data.name", "scene"),
        ("data.positives", "all"),
        ("data.noise", 1.5),
        ("data.noise_protocol", "ncr"),
        ("data.noise_file", "no_such.npy"),
        ("optim.warmup_steps", 10),
        ("augment.image_tokens", 0.2),
        ("augment.images", "crop"),
        ("model.preprocess", "imagenet"),
    ],
)
def test_a_wrong_value_names_its_field(workdir, field, value):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        run_steps(workdir, 1, **{field: value})
