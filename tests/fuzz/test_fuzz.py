"""Feeds a few hundred bad files to the readers. `pytest -m fuzz` feeds thousands, to every target, for ten minutes."""

import json
import os
import sys
from unittest.mock import patch

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches memory by /proc")
pytest.importorskip("hypothesis")

from tests.fuzz import inputs  # noqa: E402
from tests.fuzz.__main__ import SHARES, parse, run_all  # noqa: E402
from tests.fuzz.commands import COMMAND_TARGETS, SMALL, verbs  # noqa: E402
from tests.fuzz.harm import CASES  # noqa: E402
from tests.fuzz.models import MODEL_TARGETS  # noqa: E402
from tests.fuzz.requests import REQUEST_TARGETS  # noqa: E402
from tests.fuzz.targets import FILE_TARGETS, Target  # noqa: E402
from tests.fuzz.worker import attempt, fuzz  # noqa: E402

INPUTS = {"image folder": 60, "Karpathy": 60, "COCO annotations": 40, "classes": 30, "scores, ground truth": 40}
# Words of the cases that compile nothing.
WORDS = (
    "PNG",
    "for a picture",
    "to embed",
    "npy",
    "PostScript",
    "dataset_own",
    "metadata",
)
QUICK = [name for name in CASES if any(word in name for word in WORDS)]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.slow
def test_bad_files_are_read_or_refused(name, tmp_path):
    target = next(target for target in FILE_TARGETS if target.name == name)
    found = fuzz(target, INPUTS[name], 0, tmp_path)
    assert found.failures == []
    assert sum(found.counts.values()) == INPUTS[name]
    assert found.counts["refused"] > INPUTS[name] / 3  # otherwise the inputs are not bad enough


@pytest.mark.slow
def test_hostile_requests_are_answered_or_refused(tmp_path):
    [target] = REQUEST_TARGETS
    found = fuzz(target, 200, 0, tmp_path)
    assert found.failures == []
    assert found.counts["refused"] > 100


@pytest.mark.parametrize("target", [*FILE_TARGETS, *MODEL_TARGETS], ids=lambda target: target.name)
@pytest.mark.slow
def test_good_files_are_accepted(target, tmp_path):
    target.write(tmp_path / "inside", tmp_path / "outside")
    target.read(tmp_path / "inside", None)


@pytest.mark.slow
def test_a_command_that_would_train_ends_at_its_first_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the target changes the folder
    command = ["train", "--config=config.py", "--workdir=out/run", *SMALL]
    try:
        COMMAND_TARGETS[0].write(tmp_path / "inside", tmp_path / "outside")
        with pytest.raises(SystemExit) as ended:
            COMMAND_TARGETS[0].read(tmp_path / "inside", command)
    finally:
        patch.stopall()
    assert ended.value.code == 0
    assert not (tmp_path / "inside" / "out" / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", QUICK)
def test_files_made_to_harm_are_refused(name, tmp_path):
    (tmp_path / "inside").mkdir()
    outcome, error, _ = attempt(lambda: CASES[name](tmp_path / "inside"), tmp_path)
    assert outcome == "refused", error


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_thousands_of_bad_inputs_are_read_or_refused(name):
    (result,) = run_all([name], parse([]))
    assert result["failures"] == []


def test_every_target_has_its_share():
    names = [target.name for target in (*FILE_TARGETS, *MODEL_TARGETS, *COMMAND_TARGETS, *REQUEST_TARGETS)]
    assert set(SHARES) == {*names, "made to harm"}
    assert {"train", "search", "standardize fit", "data check"} <= set(verbs())


# The watch itself: without these tests it could pass by seeing nothing.


def run(call, tmp_path):
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "outside" / "secret.png").write_bytes(b"secret")
    return attempt(call, tmp_path)[0]


def unpickle(path):
    np.save(path, np.array([os.getcwd], object), allow_pickle=True)
    np.load(path, allow_pickle=True)


def test_the_watch_tells_every_ending(tmp_path):
    def fail(error):
        raise error

    inside = tmp_path / "inside"
    endings = {
        "accepted": lambda: None,
        "refused": lambda: fail(ValueError("no")),
        "stack trace": lambda: fail(KeyError("no")),
        "memory": lambda: np.ones(2**45),
        "escape": lambda: (inside / ".." / "outside" / "secret.png").read_bytes(),
        "executed": lambda: unpickle(inside / "x.npy"),
    }
    for outcome, call in endings.items():
        assert run(call, tmp_path) == outcome
    assert run(lambda: (tmp_path.parent / "elsewhere").write_text("x"), tmp_path) == "escape"
    assert not (tmp_path.parent / "elsewhere").exists()
    assert run(lambda: (inside / "executed").touch(), tmp_path) == "executed"


def test_a_reader_that_trusts_its_file_is_found_out(tmp_path):
    def read(folder):
        for path in json.loads((folder / "list.json").read_text()):
            (folder / path).read_bytes()

    def write(folder):
        (folder / "a.txt").write_text("a")
        (folder / "list.json").write_text('["a.txt", "a.txt"]')

    found = fuzz(Target("trusting", write, read, ("a.txt",)), 150, 0, tmp_path)
    assert {failure.outcome for failure in found.failures} >= {"escape", "stack trace"}


def test_trees_with_keys_that_stand_twice_are_written_so():
    tree = inputs.from_json('{"a": 1, "b": [2, {"c": 3}]}')
    tree.append(tree[0])
    assert inputs.dumps(tree) == '{"a": 1, "b": [2, {"c": 3}], "a": 1}'
