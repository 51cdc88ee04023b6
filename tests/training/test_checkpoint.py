"""Checkpoints damaged in every way, checkpoints of stopped runs, and the workdir's lock."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.training.checkpoint import Checkpoints, Selection
from vacsr_jax.training.checksums import CHECKSUMS, write_checksums
from vacsr_jax.training.sharding import make_mesh, state_sharding
from vacsr_jax.training.state import TrainState
from vacsr_jax.training.workdir_lock import hold

BEST, LAST = 6, 9


def state_at(step, size=64):
    weights = jnp.asarray(np.random.default_rng(step).normal(size=(size, size)), jnp.float32)
    return TrainState(jnp.asarray(step, jnp.int32), {"w": weights}, {"m": weights + 1})


def write(checkpoints, step, rsum, size=64):
    selection = None if rsum is None else Selection("validation/rsum", rsum)
    checkpoints.save(state_at(step, size), {"config": {}, "model": {}}, selection)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 3, 6 and 9, of which 6 is the best."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    for step, rsum in ((3, 10.0), (BEST, 30.0), (LAST, 20.0)):
        write(checkpoints, step, rsum)
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def steps(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit in an array": lambda folder: flip(largest(folder / "params")),
    "a file cut short": lambda folder: os.truncate(largest(folder / "params"), 100),
    "a file that is gone": lambda folder: largest(folder / "params").unlink(),
    "an item that is gone": lambda folder: shutil.rmtree(folder / "params"),
    "a broken description": lambda folder: (folder / "run/metadata").write_text('{"config":'),
    "broken metrics": lambda folder: (folder / "metrics/metrics").write_text("{"),
    "broken checksums": lambda folder: (folder / CHECKSUMS).write_text("[1]"),
    "no checksums, as of a copy cut short": lambda folder: (folder / CHECKSUMS).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_the_last_good_one_used(workdir, damage):
    damage(workdir / "checkpoints" / f"{LAST}")
    reading = Checkpoints(workdir, read_only=True)
    with pytest.warns(UserWarning, match=f"step {LAST} is damaged"):
        assert reading.choose("last") == BEST
    reading.close()
    assert f"{LAST}" in steps(workdir)  # a reader moves nothing
    with pytest.warns(UserWarning, match=rf"step {LAST} is damaged \(.*; the last good one is step {BEST}"):
        checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(checkpoints.last_step(), state_at(0))
    np.testing.assert_array_equal(restored.params["w"], state_at(BEST).params["w"])
    np.testing.assert_array_equal(restored.opt_state["m"], state_at(BEST).opt_state["m"])
    write(checkpoints, LAST, 20.0)  # training reaches this step again
    checkpoints.close()
    assert steps(workdir) == ["3", "6", "9", "damaged-9"][1:]


def test_a_damaged_best_gives_way_to_the_next_best(workdir):
    flip(largest(workdir / "checkpoints" / f"{BEST}" / "params"))
    reading = Checkpoints(workdir, read_only=True)
    with pytest.warns(UserWarning, match=f"step {BEST} is damaged"):
        assert reading.choose("best") == LAST
    reading.close()


def test_loading_does_not_ask_after_the_optimizer(workdir):
    flip(largest(workdir / "checkpoints" / f"{LAST}" / "optimizer"))
    reading = Checkpoints(workdir, read_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reading.choose("last") == LAST
    reading.close()


def test_training_does_not_start_over_where_every_checkpoint_is_damaged(workdir):
    for step in (BEST, LAST):
        flip(largest(workdir / "checkpoints" / f"{step}" / "params"))
    before = steps(workdir)
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        Checkpoints(workdir)
    assert steps(workdir) == before
    reading = Checkpoints(workdir, read_only=True)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match="every checkpoint is damaged"):
        reading.choose("best")
    reading.close()


def metrics_of(workdir, step):
    return workdir / "checkpoints" / f"{step}" / "metrics" / "metrics"


def chosen(workdir):
    reading = Checkpoints(workdir, read_only=True)
    found = reading.choose("best"), reading.choose("last")
    reading.close()
    return found


def test_a_checkpoint_says_what_it_is_selected_by(workdir):
    saved = {step: json.loads(metrics_of(workdir, step).read_text()) for step in (BEST, LAST)}
    assert saved[BEST] == {"selection": {"by": "validation/rsum", "value": 30.0}}
    assert saved[LAST] == {"selection": {"by": "validation/rsum", "value": 20.0}}
    assert chosen(workdir) == (BEST, LAST)


def test_selected_by_step_the_last_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 6, 9):
        checkpoints.save(state_at(step), {"config": {}, "model": {}}, Selection("step", step))
    checkpoints.close()
    assert json.loads(metrics_of(tmp_path, 9).read_text()) == {"selection": {"by": "step", "value": 9}}
    assert chosen(tmp_path) == (9, 9)
    assert steps(tmp_path) == ["6", "9"]


def as_earlier_versions_wrote(workdir, values):
    """Puts metrics {"rsum": value} into the checkpoints of a workdir, with checksums that fit."""
    for step, value in values.items():
        metrics_of(workdir, step).write_text(json.dumps({"rsum": value}))
        write_checksums(workdir / "checkpoints" / f"{step}")


@pytest.mark.parametrize(("values", "best"), [({BEST: 30.0, LAST: 20.0}, BEST), ({BEST: BEST, LAST: LAST}, LAST)])
def test_a_workdir_of_an_earlier_version_has_the_same_best(workdir, values, best):
    as_earlier_versions_wrote(workdir, values)
    assert chosen(workdir) == (best, LAST)


def test_a_run_of_an_earlier_version_is_resumed_and_keeps_its_best(workdir):
    as_earlier_versions_wrote(workdir, {BEST: 30.0, LAST: 20.0})
    checkpoints = Checkpoints(workdir)
    for step, rsum in ((12, 25.0), (15, 26.0)):
        write(checkpoints, step, rsum)
    checkpoints.close()
    assert (chosen(workdir), steps(workdir)) == ((BEST, 15), ["12", "15", "6"])
    checkpoints = Checkpoints(workdir)
    write(checkpoints, 18, 31.0)
    write(checkpoints, 21, 5.0)
    checkpoints.close()
    assert (chosen(workdir), steps(workdir)) == ((18, 21), ["18", "21"])


def test_checkpoints_without_checksums_of_an_earlier_version_are_given_some(workdir):
    for step in (BEST, LAST):
        (workdir / "checkpoints" / f"{step}" / CHECKSUMS).unlink()
    checkpoints = Checkpoints(workdir)
    assert checkpoints.last_step() == LAST
    checkpoints.close()
    assert (workdir / "checkpoints" / f"{BEST}" / CHECKSUMS).exists()


def test_a_checkpoint_without_a_selection_is_never_the_best_and_goes_in_time(workdir):
    checkpoints = Checkpoints(workdir)
    for step, rsum in ((10, None), (12, 1.0), (15, 2.0)):
        write(checkpoints, step, rsum)
        checkpoints.wait()
        reading = Checkpoints(workdir, read_only=True)
        assert (reading.choose("best"), reading.choose("last")) == (BEST, step)
        reading.close()
    checkpoints.close()
    assert steps(workdir) == ["12", "15", "6"]


def test_the_first_checkpoint_of_a_stopped_run_can_be_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 2, None)
    checkpoints.close()
    reading = Checkpoints(tmp_path, read_only=True)
    assert reading.choose("best") == 2
    reading.close()


def test_what_a_killed_save_left_is_removed(workdir):
    left = workdir / "checkpoints" / "12.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / f"{LAST}", left)
    checkpoints = Checkpoints(workdir)
    write(checkpoints, 12, 5.0)
    checkpoints.close()
    assert steps(workdir) == ["12", "6", "9"]


def test_checksums_name_every_file_of_the_items(workdir):
    folder = workdir / "checkpoints" / f"{LAST}"
    sums = json.loads((folder / CHECKSUMS).read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if "/" in name} == set(sums)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 2 MB, and a function that makes the disk larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore's threads, afterwards
def test_a_full_disk_is_named_keeps_the_old_checkpoint_and_can_be_made_larger(small_disk):
    folder, enlarge = small_disk
    checkpoints = Checkpoints(folder)
    write(checkpoints, 3, 10.0, size=300)  # 360 kB twice
    checkpoints.wait()
    with pytest.raises(OSError, match=r"\(step 3 is whole\): the disk is full; make room"):  # noqa: PT012
        write(checkpoints, 6, 20.0, size=600)
        checkpoints.wait()
    with contextlib.suppress(OSError):
        checkpoints.close()
    enlarge()
    checkpoints = Checkpoints(folder)
    assert checkpoints.last_step() == 3
    write(checkpoints, 6, 20.0, size=600)
    checkpoints.close()
    assert steps(folder) == ["3", "6"]


@pytest.mark.parametrize("before", [(8, False), (8, True), (1, False)])
@pytest.mark.parametrize("after", [(8, False), (8, True), (4, True), (1, False)])
def test_a_checkpoint_moves_between_devices_copies_and_shards(tmp_path, before, after):
    def place(devices, sharded):
        mesh = make_mesh(jax.devices()[:devices])
        return jax.device_put(state_at(3), state_sharding(state_at(3), mesh, shard_params=sharded))

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(place(*before), {"config": {}, "model": {}}, None)
    checkpoints.wait()
    like = place(*after)
    restored = checkpoints.restore(3, like)
    checkpoints.close()
    for ours, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert ours.sharding == wanted.sharding
        np.testing.assert_array_equal(ours, wanted)


def test_one_process_trains_in_a_workdir(tmp_path):
    with hold(tmp_path / "run"):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ValueError, match=f"{holder} is training in it"), hold(tmp_path / "run"):
            pass
    with hold(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"in the path, which leaves Orbax's checkpoints unreadable; give another"):
        Checkpoints(tmp_path / name)
