"""An explanation multiplies to the score, names the places it found, and is drawn; other models say they have none."""

import numpy as np
import pytest

from tests.parity import methods
from tests.small_models import untrained
from vacsr_jax.evaluation.explanation import Explanation
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.report.explanation import DARK, draw, explanation_svg, save_explanation

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
PICTURE = methods.batch()["images"][0]
BY_HAND = Explanation(
    text="a red <circle>",
    picture=PICTURE,
    tokens=("a", "red", "<circle>"),
    weight=np.array([0.0, 1.0, 0.5]),
    probability=np.array([0.1, 0.9, 0.16]),
    share=np.array([[1, 0, 0, 0, 0, 0], [0.1, 0.7, 0.1, 0.1, 0, 0], [0, 0, 0, 0, 0.2, 0.8]]),
    regions=((), (0,), (1,), (2,), (3,), (1, 2)),
    match_probability=0.6,  # calibrated: the power is log 0.6 / log 0.36 = 1/2
)


@pytest.mark.parametrize("case", ["tokens", "propensity, tokens"])
def test_the_factors_multiply_to_the_probability(case):
    _, model = methods.model_of(case)
    loaded = Pretrained(model, methods.params_of(case), methods.tokenizer())
    for text in methods.WORDS[:2]:
        found = loaded.explain(PICTURE, text)
        raw = np.prod(found.probability**found.weight)
        params = loaded.params["pair"].get("match", loaded.params["pair"])
        slope, shift = params["calibration"] if "match" in loaded.params["pair"] else (1, 0)
        calibrated = 1 / (1 + np.exp(-slope * np.log(raw / (1 - raw)) - shift))
        assert found.match_probability == pytest.approx(calibrated, rel=1e-4)
        assert found.match_probability == pytest.approx(loaded.score([PICTURE], [text]).probability[0, 0], rel=1e-6)
        assert np.prod(found.factor) == pytest.approx(found.match_probability)
        np.testing.assert_allclose(found.share.sum(axis=1), 1, rtol=1e-5)
        assert found.share.shape == (len(found.tokens), 5 if case == "tokens" else 17)
        assert found.regions[:6] == ((), (0,), (1,), (2,), (3,), *found.regions[5:6])
        pieces = "".join(found.tokens[1:-1]).replace("(space)", "")  # the context ends some texts early
        assert len(pieces) > 4
        assert text.replace(" ", "").startswith(pieces)
        assert found.tokens[:: len(found.tokens) - 1] == ("(start)", "(end)")
        np.testing.assert_array_equal(found.picture, PICTURE)
    assert case == "tokens" or found.regions[5:8] == ((0, 1), (0, 2), (0, 3))


def test_shares_and_words_by_hand():
    cells, whole = BY_HAND.share_of_cells(1)
    np.testing.assert_allclose(cells, [[0.7, 0.1], [0.1, 0]])
    assert whole == pytest.approx(0.1)
    np.testing.assert_allclose(BY_HAND.share_of_cells(2)[0], [[0, 0.4], [0.4, 0.2]])
    np.testing.assert_allclose(BY_HAND.factor, [1, 0.9**0.5, 0.4**0.5])
    lines = str(BY_HAND).splitlines()
    assert lines[0] == "0.600  a red <circle>"
    assert lines[2:] == [
        "a           0.00  0.100   1.000  whole image (100%)",
        "red         1.00  0.900   0.949  row 1, column 1 (70%)",
        "<circle>    0.50  0.160   0.632  row 1, column 2 -> row 2, column 1 (80%)",
    ]


def test_a_model_that_compares_wholes_says_so():
    with pytest.raises(ValueError, match=r"^VariationalAdapter compares an image and a text as wholes, so there is no"):
        untrained().explain(PICTURE, "a red circle")
    assert not untrained().model.pair.explains


def test_it_is_drawn(tmp_path):
    figure = draw(BY_HAND, "black")
    red = figure.axes[1].images[0].get_array()
    picture = figure.axes[0].images[0].get_array()
    assert [panel.get_title() for panel in figure.axes] == ["the picture", "red", "<circle>"]  # "a" does not count
    side = len(picture) // 2
    light = {(0, 0): 0.8, (0, 1): 0.2, (1, 1): 0.1}  # the cell's share, and that of the whole image
    for (row, column), share in light.items():
        part = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        np.testing.assert_allclose(red[part], picture[part] * (DARK + (1 - DARK) * share), atol=1)
    svg = explanation_svg(BY_HAND)
    assert svg.startswith("<svg")
    assert "&lt;circle&gt;" in svg
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        save_explanation(BY_HAND, tmp_path / f"why.{kind}")
        assert (tmp_path / f"why.{kind}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"got the ending 'bmp', expected png, svg or pdf"):
        save_explanation(BY_HAND, tmp_path / "why.bmp")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["why.png", "why.svg"]
