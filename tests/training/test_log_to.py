"""Records at services: they arrive, and a service that fails stops nothing."""

import threading
import time
import warnings

import pytest

from vacsr_jax.training import log_to
from vacsr_jax.training.log_to import SERVICES, choose_services, run_id
from vacsr_jax.training.metric_writer import MetricWriter, read_metrics

RECORDS = [(10, {"loss": 2.5, "kl": 0.25}), (10, {"validation/rsum": 30.0}), (20, {"loss": 1.5, "kl": 0.5})]


def write(folder, services, *, start=0, records=RECORDS):
    """Writes records through a writer; returns those of metrics.jsonl and the warnings."""
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        writer = MetricWriter(
            folder / "metrics.jsonl", start=start, total=30, services=services, config={"optim": {"lr": 0.1}}
        )
        for step, values in records:
            writer.write(step, values)
        writer.close()
    return read_metrics(folder / "metrics.jsonl"), [str(w.message) for w in told]


class Recorder:
    """A service that keeps what it gets."""

    def __init__(self, run):
        self.run, self.got, self.closed = run, [], False

    def log(self, step, values):
        self.got.append((step, dict(values)))

    def close(self):
        self.closed = True


def test_a_service_gets_every_record_and_the_runs_config(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(SERVICES, "json", lambda run: made.append(Recorder(run)) or made[-1])
    kept, told = write(tmp_path, ["json"])
    (service,) = made
    assert (service.got, service.closed, told) == (RECORDS, True, [])
    assert (service.run.workdir, service.run.config, service.run.start) == (tmp_path, {"optim": {"lr": 0.1}}, 0)
    assert kept == [{"step": step, **values} for step, values in RECORDS]


def fails(where, error):
    class Failing(Recorder):
        def __init__(self, run):
            super().__init__(run)
            self.fail("init")

        def fail(self, place):
            if place == where:
                raise error

        def log(self, step, values):
            self.fail("log")

        def close(self):
            self.fail("close")

    return Failing


@pytest.mark.parametrize("where", ["init", "log", "close"])
@pytest.mark.parametrize("error", [ConnectionError("no network"), SystemExit(1), KeyboardInterrupt("of the service")])
def test_a_service_that_fails_is_told_once_and_the_others_go_on(tmp_path, monkeypatch, where, error):
    made = []
    monkeypatch.setitem(SERVICES, "json", fails(where, error))
    monkeypatch.setitem(SERVICES, "csv", lambda run: made.append(Recorder(run)) or made[-1])
    kept, told = write(tmp_path, ["json", "csv"])
    assert len(kept) == len(made[0].got) == len(RECORDS)
    assert len(told) == 1
    assert f"train.log_to: json failed and is left out ({type(error).__name__}" in told[0]


def test_a_service_that_hangs_delays_nothing_but_the_end_and_that_for_a_limited_time(tmp_path, monkeypatch):
    wait = threading.Event()

    class Hanging(Recorder):
        def log(self, step, values):
            wait.wait()

    monkeypatch.setitem(SERVICES, "json", Hanging)
    monkeypatch.setattr(log_to, "PATIENCE", 0.1)
    began = time.monotonic()
    kept, told = write(tmp_path, ["json"], records=RECORDS * 100)
    assert time.monotonic() - began < 2
    wait.set()
    assert len(kept) == 300
    assert len(told) == 1
    assert "TimeoutError" in told[0]


def test_names_are_checked_before_a_run_starts(tmp_path, refuse):
    assert choose_services("") == []
    with pytest.raises(
        ValueError, match=r"train\.log_to: got 'tensorbord', expected some of tensorboard, wandb, trackio"
    ):
        choose_services("tensorbord")
    error = refuse("train", "--config=scenes", f"--workdir={tmp_path / 'run'}", "--config.train.log_to=mlflow")
    assert "got 'mlflow'" in error
    assert not (tmp_path / "run").exists()


def test_a_service_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(SERVICES, "no_such_package", Recorder)
    with pytest.raises(ValueError, match=r'is not installed: pip install "vacsr_jax\[no_such_package\]"'):
        choose_services("no_such_package")


def test_a_workdir_keeps_the_name_of_its_run(tmp_path):
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path / "other") != first


@pytest.mark.filterwarnings("ignore")  # of its own dependencies
def test_tensorboard_reads_what_was_written_and_drops_what_a_killed_run_wrote_too_much(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, told = write(tmp_path, ["tensorboard"])
    assert told == []
    write(tmp_path, ["tensorboard"], start=10, records=[(20, {"loss": 1.25})])
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(x.step, x.value) for x in found.Scalars("loss")] == [(10, 2.5), (20, 1.25)]
    assert [(x.step, x.value) for x in found.Scalars("validation/rsum")] == [(10, 30.0)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, told = write(tmp_path / "run", ["wandb"])
    assert told == []
    assert list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id(tmp_path / 'run')}/*.wandb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_the_records(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    _, told = write(tmp_path / "run", ["trackio"])
    assert told == []
    (name,) = SQLiteStorage.get_runs("vacsr_jax")
    found = SQLiteStorage.get_logs("vacsr_jax", name)
    assert [(x["step"], x["loss"]) for x in found if "loss" in x] == [(10, 2.5), (20, 1.5)]
