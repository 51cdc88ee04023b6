"""The short forms of what experiments/robustness does for long: real processes, killed and stopped."""

import signal

import pytest

from experiments.robustness import faults
from experiments.robustness.processes import EVERY

STEPS = 2 * EVERY


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


def test_a_run_that_is_killed_and_stopped_ends_as_one_that_was_not(out):
    (killed, stopped), differ = faults.end_often(out, ("save", signal.SIGTERM), STEPS)
    assert differ == []
    assert killed.status == -signal.SIGKILL
    assert killed.step - killed.checkpoint <= EVERY
    assert stopped.status == 128 + signal.SIGTERM
    saved = f"vacsr: stopped; step {stopped.checkpoint} is saved; the same command again goes on from there"
    assert stopped.said == saved
