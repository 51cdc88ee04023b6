"""`vacsr evaluate` and `vacsr export`: what they refuse. Their results are tested in end_to_end, on whole runs."""

import pytest


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_an_empty_folder_is_no_model(verb, refuse, tmp_path):
    options = [f"--out={tmp_path / 'out'}"] if verb == "export" else []
    assert f"{tmp_path} holds no checkpoints/" in refuse(verb, f"--model={tmp_path}", *options)


def test_a_run_without_a_finished_checkpoint(refuse, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "no checkpoint is finished yet" in refuse("evaluate", f"--model={tmp_path}")


@pytest.mark.parametrize("split", ["all", "tset"])
def test_a_split_that_scenes_do_not_have(split, refuse, model_folder):
    error = refuse("evaluate", f"--model={model_folder}", f"--split={split}")
    assert f"got {split!r}, expected one of train, validation, test" in error


def test_evaluate_refuses_an_unknown_field(refuse, model_folder):
    error = refuse("evaluate", f"--model={model_folder}", "--config.data.pth=x")
    assert "did you mean data.path" in error


def test_export_to_a_file(refuse, model_folder, tmp_path):
    (tmp_path / "out").write_text("kept")
    assert "out" in refuse("export", f"--model={model_folder}", f"--out={tmp_path / 'out'}")
    assert (tmp_path / "out").read_text() == "kept"
