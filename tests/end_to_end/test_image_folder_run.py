"""The config for a user's own pictures, shrunk, on synthetic folders."""

import json

import numpy as np
import pytest
from PIL import Image

import vacsr_jax
from vacsr_jax.main import main
from vacsr_jax.training.log_to import SERVICES
from vacsr_jax.training.metric_writer import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 210)}
SHRUNK = ("train.steps=4", "checkpoint.every=2", "train.batch_size=8", "optim.warmup_steps=1", "model.image_size=32")


def draw_folder(folder, n=40, shift=0):
    folder.mkdir()
    lines = []
    for i in range(n):
        name, colour = list(COLOURS.items())[i % 3]
        pixels = np.full((20 + i % 7, 30, 3), 255, np.uint8)
        pixels[4 + shift : 12, 5 : 10 + i % 9] = colour
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "captions": [f"a {name} box", f"box number {i} is {name}"]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def train(path, workdir, *fields):
    overrides = [f"--config.{field}" for field in (*SHRUNK, *fields)]
    main(["train", f"--config=configs/image_folder.py:path={path}", f"--workdir={workdir}", *overrides])


SENT = []  # what the run's service got


class Service:
    """A place for `train.log_to`, of the name of a package that is there."""

    def __init__(self, run):
        SENT.append(run)

    def log(self, step, values):
        SENT.append({"step": step, **values})

    def close(self):
        SENT.append("closed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    a, b = draw_folder(root / "a"), draw_folder(root / "b", shift=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SERVICES, "json", Service)
        train(f"{a},{b}", root / "run", "train.log_to=json")
    return root


def test_a_service_got_the_config_and_every_record(run):
    described, *records, end = SENT
    assert described.config["model"]["image_size"] == 32
    assert (described.workdir, described.start, end) == (run / "run", 0, "closed")
    assert records == read_metrics(run / "run" / "metrics.jsonl")


def test_it_trains_on_two_folders_and_is_evaluated_by_labels_alone(run):
    found = json.loads((run / "run" / "evaluation.json").read_text())
    assert 0 <= found["trained"]["i2t/R@1"] <= 1
    assert not any(name.startswith("true/") for name in found["trained"])
    page = (run / "run" / "report.html").read_text()
    assert "unlabelled" in page
    assert "not a match" not in page


def test_the_result_scores_pictures_by_path(run):
    model = vacsr_jax.load(run / "run")
    scores = model.score([run / "a" / "0.png", run / "b" / "1.png"], ["a red box", "a green box"])
    assert scores.probability.shape == (2, 2)
    assert np.all(scores.uncertainty > 0)


def test_it_is_evaluated_on_another_folder(run, capsys):
    other = draw_folder(run / "c", n=12)
    main(["evaluate", f"--model={run / 'run'}", f"--config.data.path={other}", "--split=all"])
    assert "i2t/R@1" in capsys.readouterr().out


def test_a_broken_picture_stops_with_its_file_and_line(tmp_path, capsys):
    folder = draw_folder(tmp_path / "broken")
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as stopped:
        train(folder, tmp_path / "run")
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "4.png" in message
    assert "metadata.jsonl:5" in message
    assert "Traceback" not in message


def test_or_is_left_out_and_counted(tmp_path, caplog):
    folder = draw_folder(tmp_path / "broken")
    for i in range(0, 40, 9):
        (folder / f"{i}.png").write_bytes(b"")
    train(folder, tmp_path / "run", "data.on_error=skip")
    assert (tmp_path / "run" / "report.html").exists()
    assert "skipped" in caplog.text
