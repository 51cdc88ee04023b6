"""What the stored gradients of all methods say; tests/parity/test_method_goldens.py checks that they are right."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

STORED = json.loads((Path(__file__).parents[1] / "parity" / "golden" / "methods.json").read_text())["cases"]
# The pair model has a scale of its own in place of CLIP's; the triplet loss compares plain cosines.
UNUSED = {"triplet": {"pair/log_scale"}, "sigmoid, fixed scale": {"pair/log_scale", "pair/bias"}}


@pytest.mark.parametrize("name", STORED)
def test_every_parameter_gets_a_gradient(name):
    norms = STORED[name]["norms"]
    assert {k for k, norm in norms.items() if norm == 0} == {"towers/logit_scale"} | UNUSED.get(name, set())


@pytest.mark.parametrize("name", ["vacsr", "propensity, vacsr"])
def test_tiles_change_no_term_and_no_gradient(name):
    for part in ("terms", "norms"):
        whole, tiled = (STORED[n][part] for n in (name, f"{name}, tiles"))
        assert whole.keys() == tiled.keys()
        for key, value in whole.items():
            np.testing.assert_allclose(tiled[key], value, rtol=1e-5, atol=1e-7, err_msg=f"{part}, {key}")


def test_every_choice_changes_the_loss():
    losses = {name: case["terms"]["loss"] for name, case in STORED.items() if "tiles" not in name}
    for (a, one), (b, other) in itertools.combinations(losses.items(), 2):
        assert one != other, f"{a} and {b}"
