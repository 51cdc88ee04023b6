"""How a run handles signals, other machines and other processes; nothing is trained."""

import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from vacsr_jax.atomic_files import to_json
from vacsr_jax.config_files import load_config
from vacsr_jax.training.checkpoint import config_to_dict
from vacsr_jax.training.loop import check_claim
from vacsr_jax.training.metric_writer import read_metrics
from vacsr_jax.training.multihost import check_shares, connect
from vacsr_jax.training.stop import watch_signals
from vacsr_jax.workdir import CONFIG


def config_with(*fields):
    return load_config("configs/scenes.py", [f"--config.{field}" for field in fields])


def test_a_signal_is_noted_and_a_second_ctrl_c_interrupts():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), watch_signals() as stop:  # noqa: PT012
        assert stop(1) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(2) == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        stop(3)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_no_signal_is_watched():
    found = []

    def work():
        with watch_signals() as stop:
            found.append(stop(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_a_run_goes_on_with_other_devices_but_not_with_another_loss(tmp_path):
    (tmp_path / CONFIG).write_text(to_json(config_to_dict(config_with())))
    check_claim(tmp_path, config_with("train.shard_params=True", "train.tile_pairs=9", "data.workers=2"))
    with pytest.raises(ValueError, match=r"loss\.kl: saved 0\.0005, given 0\.1\. Give"):
        check_claim(tmp_path, config_with("loss.kl=0.1", "train.shard_params=True"))


def test_damaged_files_of_a_workdir_are_named(tmp_path):
    (tmp_path / CONFIG).write_text('{"seed": 0')
    with pytest.raises(ValueError, match=r"run_config\.json is damaged .* remove it"):
        check_claim(tmp_path, config_with())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\x00p": 2\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_processes_with_unequal_shares_are_refused():
    def mesh(*processes):
        return SimpleNamespace(devices=np.array([SimpleNamespace(process_index=p) for p in processes]))

    check_shares(mesh(0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"different numbers of devices \(process 0: 3, process 1: 1\)"):
        check_shares(mesh(0, 0, 0, 1))


@pytest.mark.parametrize("where", ["10.0.0.1", "10.0.0.1:1234", "10.0.0.1:1234,2", "10.0.0.1:1234,2,x", "2,0,h:1"])
def test_a_place_among_processes_needs_an_address_and_two_numbers(where):
    with pytest.raises(ValueError, match="expected HOST:PORT,PROCESSES,INDEX"):
        connect(where)
