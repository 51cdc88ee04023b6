"""The runs from pretrained towers: what each row trains, the two stages by hand, and the tables."""

import json

import numpy as np
import pytest

from experiments.scenes import pretrained
from experiments.scenes.pretrained import (
    NOISE,
    OPTIONS,
    PARTS,
    TOWERS,
    draw_curves,
    tables,
    tasks,
    two_stages,
    zero_shot,
)
from experiments.scenes.runs import make_config, validation_curve
from vacsr_jax.metrics.retrieval import average_precision_at_r
from vacsr_jax.shipped_models import shipped


def test_every_row_is_a_config_from_the_shipped_towers():
    found = tasks(tuple(PARTS), 1, {"train.steps": 7})
    assert len({task.name for task in found}) == len(found)
    assert TOWERS in shipped()
    for task in found:
        config = make_config(task.fields)
        assert (config.seed, config.train.steps) == (1, 7)
        assert config.model.pretrained == ("" if task.name.startswith("scratch") else TOWERS)
    bounded = [task for task in found if make_config(task.fields).adapter.bounded]
    assert len(bounded) == 2 * len(NOISE)
    assert OPTIONS.keys() == {"deterministic, residual", "VACSR, residual", "VACSR, sigma^2 = u"}


def test_two_stages_rank_only_the_cosines_candidates(monkeypatch):
    monkeypatch.setattr(pretrained, "CANDIDATES", 3)
    rng = np.random.default_rng(0)
    cosine, score, matches = (
        rng.normal(size=(6, 8)),
        rng.normal(size=(6, 8)).astype(np.float32),
        rng.random((6, 8)) < 0.4,
    )
    matches[:, 0] = matches[0] = True
    found = two_stages(cosine, score, matches)

    def by_hand(cosine, score, matches):
        masked = np.full(score.shape, -np.inf)
        for i, row in enumerate(cosine):
            best = sorted(range(len(row)), key=lambda j: -row[j])[:3]
            masked[i, best] = score[i, best]
        return average_precision_at_r(masked, matches).mean()

    expected = (by_hand(cosine, score, matches) + by_hand(cosine.T, score.T, matches.T)) / 2
    assert found["reranked"] == pytest.approx(expected)
    assert found["correlation"] == pytest.approx(np.corrcoef(cosine.ravel(), score.ravel())[0, 1])
    monkeypatch.setattr(pretrained, "CANDIDATES", 8)
    assert two_stages(cosine, score, matches)["reranked"] == pytest.approx(found["score"])


def test_tables_hold_what_was_run_and_say_what_was_not(tmp_path):
    metrics = dict.fromkeys(pretrained.METRICS.values(), 0.25)
    for seed in (0, 1):
        (tmp_path / f"{zero_shot(seed)}.json").write_text(json.dumps({"test": metrics | {"true/mAP@R": 0.1 * seed}}))
    [task] = [
        task
        for task in tasks(("trained",), 0, {})
        if task.fields["method"] == "vacsr" and task.fields["data.noise"] == 0.5
    ]
    stages = {"cosine": 0.2, "score": 0.3, "reranked": 0.29, "correlation": 0.5}
    result = {"test": metrics, "two_stages": stages, "curve": [[200, 100.0], [400, 150.0]]}
    (tmp_path / f"{task.name}.json").write_text(json.dumps(result))
    lines = tables(tmp_path, range(2)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["zero-shot", "nothing", *["0.050 ± 0.050"] * 3] in cells
    assert ["VACSR", "trained", "not run", "not run", "0.250"] in cells
    assert ["VACSR", "50%", "0.500", "0.200", "0.290", "0.300"] in cells
    assert draw_curves(tmp_path, range(2)).read_bytes().startswith(b"\x89PNG")


def test_the_curve_of_a_run_has_its_validations(tmp_path):
    records = [{"step": 50, "loss": 1.0}, {"step": 100, "validation/rsum": 5.0}, {"step": 200, "validation/rsum": 7.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert validation_curve(tmp_path / "metrics.jsonl") == [(100, 5.0), (200, 7.0)]
