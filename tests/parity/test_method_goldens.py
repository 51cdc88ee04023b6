"""Every method's loss, gradient and scores are what they were before the pair models had one interface."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity import methods
from tests.parity.make_method_golden import SAVED, SAVED_CASES, folder_of, machine
from vacsr_jax import load

VALUES = json.loads((Path(__file__).parent / "golden" / "methods.json").read_text())
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]


@pytest.mark.parametrize("name", VALUES["cases"])
def test_loss_gradient_and_scores(name):
    found, expected = methods.compute(name), VALUES["cases"][name]
    if VALUES["machine"] == machine():  # the last bit is this processor's, and this jax's
        assert found == expected
    for part in ("terms", "norms"):
        for key, value in expected[part].items():
            np.testing.assert_allclose(found[part][key], value, rtol=1e-4, atol=1e-6, err_msg=f"{part}, {key}")
    compare_scores(found["scores"], expected["scores"])


@pytest.mark.parametrize("name", [*SAVED_CASES, "workdir"])
def test_models_saved_before_load_and_score_the_same(name):
    model = load(SAVED / "workdir" if name == "workdir" else folder_of(name))
    case = "vacsr" if name == "workdir" else name
    assert methods.hash_of(model.params) == VALUES["saved"][case]
    assert model.config["method"] == methods.CASES[case]["method"]
    compare_scores(methods.scores_of(model.model, model.params), VALUES["cases"][case]["scores"])


def compare_scores(found, expected):
    for key, value in expected.items():
        assert (value is None) == (found[key] is None), key
        if value is not None:
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
