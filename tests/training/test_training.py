"""The first steps: the same on one and on eight devices, with copied and with sharded parameters; compiled once."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.training.steps import run_steps, small_config
from vacsr_jax.training.run import set_up
from vacsr_jax.training.sharding import state_sharding

pytestmark = pytest.mark.usefixtures("compile_fast")


@pytest.fixture(scope="module")
def eight(workdir):
    return run_steps(workdir, 8)


@pytest.mark.slow
def test_eight_devices_do_what_one_does(workdir, eight):
    """VACSR stands for all: the contract test compares one step of every method."""
    terms, params, compiled = run_steps(workdir, 1)
    terms_eight, params_eight, compiled_eight = eight
    assert compiled == compiled_eight == 1
    for a, b in zip(terms, terms_eight, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)
    # Adam's first steps are as long as the learning rate, whatever the gradient: 1e-4 is a fraction of one step.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, params_eight)


@pytest.mark.slow
def test_sharded_parameters_do_what_copies_do(workdir, eight):
    copies, params, _ = eight
    shards, sharded, compiled = run_steps(workdir, 8, **{"train.shard_params": True})
    assert compiled == 1
    for a, b in zip(copies, shards, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, sharded)


@pytest.mark.slow
def test_parameters_are_really_split(workdir):
    config = small_config()
    run = set_up(config, workdir)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shardings = state_sharding(run.params, mesh, shard_params=True)
    params = jax.device_put(run.params, shardings)
    kernel = params["pair"]["trunk_kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 64)}


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_an_error(workdir):
    with pytest.raises(ValueError, match=r"train\.batch_size: got 12, expected a multiple of 8"):
        run_steps(workdir, 8, **{"train.batch_size": 12})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "vacrs"),
        ("model.towers", "ViT-B/31"),
        ("model.dtype", "float16"),
        ("data.name", "scene"),
        ("model.preprocess", "imagenet"),
        *(
            pytest.param(field, value, marks=pytest.mark.slow)  # noticed late: after the data, or by the step
            for field, value in (
                ("data.positives", "all"),
                ("data.noise", 1.5),
                ("data.noise_protocol", "ncr"),
                ("data.noise_file", "no_such.npy"),
                ("optim.warmup_steps", -1),
                ("augment.image_tokens", 0.2),
                ("augment.images", "crop"),
            )
        ),
    ],
)
def test_a_wrong_value_names_its_field(workdir, field, value):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        run_steps(workdir, 1, **{field: value})
