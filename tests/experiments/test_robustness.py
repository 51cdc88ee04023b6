"""Short forms of experiments/robustness: real processes, killed and stopped."""

import signal

import pytest

from experiments.robustness import faults, pairs, soak
from experiments.robustness.processes import EVERY
from vacsr_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow
STEPS = 4 * EVERY


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


def test_a_run_that_is_killed_and_stopped_ends_as_one_that_was_not(out):
    (killed, stopped), differ = faults.end_often(out, ("save", signal.SIGTERM), STEPS)
    assert differ == []
    assert killed.status == -signal.SIGKILL
    assert killed.step - killed.checkpoint <= EVERY
    assert stopped.status == 128 + signal.SIGTERM
    saved = f"vacsr: stopped; step {stopped.checkpoint} is saved; run the same command again to continue from it"
    assert stopped.said == saved


def test_a_pair_loses_one_and_resumes_with_the_losses_of_one_process(out):
    workdir = out / "pair"
    loss = pairs.lose_one(workdir, out, STEPS, lost=1)
    assert loss.seconds < 60
    assert loss.status != 0
    assert "process 0 of 2 cannot go on" in loss.said or "another task died" in loss.said
    pairs.finish_pair(workdir, out, STEPS)
    assert pairs.apart(faults.straight(out, STEPS), workdir) < 1e-4
    assert (workdir / "evaluation.json").exists()


@pytest.mark.usefixtures("compile_fast", "one_device")
def test_a_run_holds_no_more_arrays_files_and_threads_the_longer_it_is(tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self.wait()  # steps here are so short that every sample would else fall into a save

    monkeypatch.setattr(Checkpoints, "save", save_and_wait)
    fields = {"method": "sigmoid", "train.log_every": 2, "checkpoint.every": 8, "train.batch_size": 8}
    samples = soak.soak(tmp_path, 40, **fields)
    half, quarter = len(samples) // 2, len(samples) // 4
    save_under_way = 8  # files and threads
    for name, more in (("arrays", 0), ("array_bytes", 0), ("fds", save_under_way), ("threads", save_under_way)):
        middle, end = (min(sample[name] for sample in part) for part in (samples[quarter:half], samples[-quarter:]))
        assert end <= middle + more, name
    assert (tmp_path / "soak.png").exists()
