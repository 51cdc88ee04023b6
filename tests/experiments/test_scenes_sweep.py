"""The sweep's fields exist and default to the paper's values; its results become a figure."""

from configs import scenes
from experiments.scenes.__main__ import SWEEP, SWEPT, draw_sweep, option_name


def test_the_sweep_moves_one_number_from_the_papers_value():
    flat = scenes.get_config()
    for field, default, values in SWEPT.values():
        section, name = field.split(".")
        assert flat[section][name] == default
        assert default not in values


def test_the_figure_is_drawn(tmp_path):
    names = ["default", *SWEEP]
    results = {
        option_name(name, seed): {"validation": {"true/mAP@R": 0.2 + 0.01 * i + 0.005 * seed}}
        for i, name in enumerate(names)
        for seed in (0, 1)
    }
    file = draw_sweep(results, range(2), tmp_path / "sweep.png")
    assert file.read_bytes().startswith(b"\x89PNG")
