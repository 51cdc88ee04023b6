"""The report is one file, safe to open, complete if parts are missing, and written atomically."""

import dataclasses
import doctest
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from vacsr_jax.metrics.calibration import reliability
from vacsr_jax.metrics.uncertainty import uncertainty_bins
from vacsr_jax.report import plots, tables
from vacsr_jax.report.html import STATUSES, Candidate, Report, Retrieval, Table, render, write_report
from vacsr_jax.report.run_report import MEANINGS, _rank_of_right, by_chance
from vacsr_jax.report.tables import format_cell, format_table

EVIL = "<script>alert('x')</script> & \"quotes\""


def sample_report() -> Report:
    """Fake data of usual sizes. To look at the page: `python tests/report/test_report.py out.html`."""
    rng = np.random.default_rng(0)

    def picture():
        image = np.full((32, 32, 3), rng.integers(180, 250, 3), np.uint8)
        y, x, size = rng.integers(2, 16, 3)
        image[y : y + size, x : x + size] = rng.integers(0, 200, 3)
        return image

    def candidates(make):
        statuses = [
            "unlabelled match",
            "labelled match",
            "not a match",
            "unlabelled match",
            "not a match",
            "not a match",
        ]
        logits = np.sort(rng.normal(0, 2, 6))[::-1]
        return [
            Candidate(make(), float(a), s, probability=float(1 / (1 + np.exp(-a))), uncertainty=float(rng.random()))
            for a, s in zip(logits, statuses, strict=True)
        ]

    things = [f"{colour} {shape}" for colour in ("red", "blue", "grey", "lime") for shape in ("disc", "square")]
    captions = iter(f"a {a} left of a small {b}" for a in things for b in ("star", "cross", "ring"))
    p = rng.random(20_000) ** 3
    u = rng.random(500)
    steps = np.arange(0, 1500, 5)
    return Report(
        title="VACSR on scenes",
        subtitle="500 pictures, 2,500 captions, seed 0; 5.4 % of the unlabelled pairs are true matches.",
        tables=[
            Table("Against the labels", ["", "untrained", "trained"],
                  [["R@1 image to text", 0.002, 0.376],
                   ["R@1 text to image", 0.002, (0.283, 0.004)], ["RSUM", "9.1", "311.4"]]),
            Table("Against the truth", ["", "untrained", "trained"],
                  [["mAP@R", 0.021, (0.374, 0.006)],
                   ["AUROC within captions", 0.501, 0.708], ["of the uncertainty", None, 0.64]],
                  note="AUROC tells unlabelled true matches from true negatives among each caption's 20 best pairs."),
        ],
        text_to_image=[Retrieval(next(captions), candidates(picture)) for _ in range(3)],
        image_to_text=[Retrieval(picture(), candidates(lambda: next(captions))) for _ in range(3)],
        histograms={
            "true matches (labelled)": rng.normal(2, 1.2, 2500),
            "false negatives (true, unlabelled)": rng.normal(0.5, 1.5, 60_000),
            "true negatives": rng.normal(-5, 2, 400_000),
        },
        uncertainty_histograms={"true matches (labelled)": u, "true negatives": rng.random(9000)},
        uncertainty={
            "R@1": {
                "image to text": uncertainty_bins(u, rng.random(500) > 0.3 + 0.6 * u),
                "text to image": uncertainty_bins(u / 2, rng.random(500) > 0.5 + 0.4 * u),
            },
            "mAP@R": {"image to text": uncertainty_bins(u, 1 - u)},
        },
        reliability={
            "against the truth": reliability(p, rng.random(p.size) < p),
            "against the labels": reliability(p, rng.random(p.size) < p**2),
        },
        curves={
            "loss": (steps, np.exp(-steps / 300) + 0.05 * rng.random(len(steps)) + 0.2),
            "KL bound": (steps, 20 * np.exp(-steps / 200) + rng.random(len(steps))),
            "validation mAP@R": ([0, 300, 600, 900, 1200, 1500], [0.02, 0.2, 0.28, 0.33, 0.36, 0.374]),
        },
        config={"seed": 0, "train": {"steps": 1500, "batch": 64}, "model": {"width": 64, "components": 2}},
        command="vacsr train --config=configs/scenes.py --workdir=runs/scenes",
    )  # fmt: skip


class Tags(HTMLParser):
    """Collects the tags and checks that they nest."""

    VOID = ("meta", "img", "br", "path", "use", "rect")

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.ids = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    return render(sample_report())


def test_the_page_needs_nothing_else(page):
    assert "://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert "@import" not in page
    tags = Tags(page)
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "object", "embed"}
    addresses = [a.get("src") or a.get("href") or "" for _, a in tags.seen]
    assert all(a.startswith(("data:image/", "#")) for a in addresses if a)
    assert all(a.startswith("#") for a in re.findall(r"url\(([^)]*)\)", page))
    assert len(tags.ids) == len(set(tags.ids))
    assert len(page) < 1_000_000


def test_every_part_is_there(page):
    for text in (
        "untrained", "0.374 ± 0.006", "false negatives (true, unlabelled) (60,000)", "image to text: Pearson",
        "against the truth", "validation mAP@R", "vacsr train --config", "&quot;steps&quot;: 1500", "not a match",
    ):  # fmt: skip
        assert text in page
    assert page.count("<svg") == page.count("<figcaption>") == 8
    assert page.count('class="pixels"') == 3 * 6 + 3


def test_all_text_is_escaped():
    evil = Candidate(EVIL, 1.0, "labelled match")
    report = Report(
        title=EVIL, subtitle=EVIL, command=EVIL, config={EVIL: EVIL},
        tables=[Table(EVIL, [EVIL, EVIL], [[EVIL, EVIL]], note=EVIL)],
        image_to_text=[Retrieval(np.zeros((4, 4), np.uint8), [evil])],
        text_to_image=[Retrieval(EVIL, [dataclasses.replace(evil, content=np.zeros((4, 4, 3), np.uint8))])],
        histograms={EVIL: np.arange(3.0)}, curves={EVIL: ([0, 1], [1, 0])},
        reliability={EVIL: reliability(np.array([0.5]), np.array([True]))},
        uncertainty={EVIL: {EVIL: uncertainty_bins(np.arange(4.0), np.arange(4) > 1, bins=2)}},
    )  # fmt: skip
    page = render(report)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not any(name == "script" for name, _ in Tags(page).seen)


def test_chance_stands_beside_the_metrics_and_every_headline_has_a_meaning():
    labels = np.eye(10, dtype=bool)
    found = by_chance({"true/AUROC score top/within": 0.7}, labels, labels.astype(float))
    assert found["true/AUROC score top/within"] == 0.5
    assert found["rsum"] == found["true/rsum"] == pytest.approx(100 * 2 * (0.1 + 0.5 + 1))
    assert {"mAP@R", "rsum", "ECE"} <= set(MEANINGS)


def test_absent_parts_leave_a_sentence():
    page = render(Report(title="empty"))
    Tags(page)
    for reason in (
        "no metrics",
        "has no uncertainty",
        "has no match probability",
        "no scores",
        "no training curves",
    ):
        assert reason in page
    assert "<svg" not in page


def test_unknown_truth_and_a_model_without_uncertainty():
    retrieved = [Candidate("a cat", 1.5, "labelled", probability=0.8), Candidate("a dog", 0.2, "unlabelled")]
    page = render(Report(
        title="own pictures", truth_known=False, image_to_text=[Retrieval(np.zeros((8, 8, 3), np.uint8), retrieved)],
        histograms={"labelled": np.arange(5.0), "unlabelled": np.arange(9.0)},
    ))  # fmt: skip
    assert "<i>u</i>" not in page
    assert "this model has no uncertainty" in page
    assert "It is not known which unlabelled pairs are true matches" in page


def test_a_status_is_told_by_word_and_sign_not_by_colour_alone():
    for status, (sign, _) in STATUSES.items():
        page = render(Report(title="t", image_to_text=[Retrieval("q", [Candidate("c", 0.0, status)])]))
        assert f"{sign} {status}</b>" in page
    with pytest.raises(ValueError, match=r"'match'.*labelled match"):
        render(Report(title="t", image_to_text=[Retrieval("q", [Candidate("c", 0.0, "match")])]))


def test_a_table_explains_its_metrics_and_none_of_its_columns_is_cut_off():
    wide = Table("wide", list("abcdefg"), [["x", *range(6)]])
    plain = Table("plain", ["metric", "chance"], [["rsum", 32.0]], meanings={"rsum": "The sum & more."})
    page = render(Report(title="t", tables=[plain, wide]))
    assert "<dt>rsum</dt><dd>The sum &amp; more.</dd>" in page
    assert page.count('<div class="wide">') == 1
    assert '<td data-name="g">5</td>' in page


def test_the_rank_of_the_right_picture_stands_below_a_row_that_does_not_show_it():
    label = np.zeros(50, bool)
    label[3] = True
    score = -np.arange(50.0)
    assert _rank_of_right(score, label, "picture") == ""
    assert _rank_of_right(-score, label, "picture") == "The labelled picture is at rank 47 of 50."
    assert _rank_of_right(score, ~label & label, "picture") == ""
    row = Retrieval("q", [Candidate("c", 0.0, "labelled")], "The labelled text is at rank 9 of 50.")
    page = render(Report(title="t", image_to_text=[row]))
    assert "at rank 9 of 50" in page
    assert "none was chosen for how well it does" in page


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, Report(title="old"))
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, Report(title="new"))
    with pytest.raises(ValueError, match="uint8"):
        write_report(
            path, Report(title="new", text_to_image=[Retrieval("q", [Candidate(np.zeros((2, 2)), 0.0, "labelled")])])
        )
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_writing_is_reproducible(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, sample_report())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_pictures_small_ones_are_exact_large_ones_are_small():
    rng = np.random.default_rng(0)
    address, pixel_art = plots.image_address(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert address.startswith("data:image/png")
    assert pixel_art
    address, pixel_art = plots.image_address(rng.integers(0, 256, (2000, 1500, 3), dtype=np.uint8))
    assert address.startswith("data:image/jpeg")
    assert not pixel_art
    assert len(address) < 150_000


def test_histograms_survive_infinite_empty_and_constant_scores():
    svg = plots.histogram_svg({"a": np.array([1.0, -np.inf]), "b": np.array([]), "c": np.ones(3)})
    assert "a (1)" in svg
    assert "b (0)" in svg
    assert plots.histogram_svg({"a": np.array([])}).startswith("<svg")


def test_importing_the_report_loads_no_matplotlib():
    code = "import sys, vacsr_jax.report.html; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(tables) == (0, 2)


def test_cells():
    cells = [0.37449, (0.374, 0.0061), 500, None, "x", float("nan"), np.float32(0.5), np.int64(3), True]
    expected = ["0.374", "0.374 ± 0.006", "500", "–", "x", "nan", "0.500", "3", "True"]
    assert [format_cell(c) for c in cells] == expected
    assert format_cell(311.42, 1) == "311.4"


def test_text_and_markdown_tables():
    rows, columns = [["random", 0.01], ["a|b", (0.374, 0.006)]], ["model", "mAP@R"]
    assert format_table(rows, columns) == (
        "model           mAP@R\n------  -------------\nrandom          0.010\na|b     0.374 ± 0.006"
    )
    assert format_table(rows, columns, markdown=True) == (
        "| model  |         mAP@R |\n| ------ | ------------: |\n"
        "| random |         0.010 |\n| a\\|b   | 0.374 ± 0.006 |"
    )
    with pytest.raises(ValueError, match="1 cells, expected 2"):
        format_table([["a"]], columns)


if __name__ == "__main__":
    write_report(sys.argv[1], sample_report())
