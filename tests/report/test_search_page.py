"""The page of a search holds everything and refers to nothing outside."""

import re

import numpy as np

from vacsr_jax.report.search_page import Answer, Found, write_search_page

PICTURE = np.zeros((90, 120, 3), np.uint8)


def page(tmp_path, found, query="a <b>cat</b>"):
    write_search_page(tmp_path / "new" / "page.html", [Answer(query, found)], "3 documents")
    return (tmp_path / "new" / "page.html").read_text()


def test_pictures_texts_and_their_numbers_stand_in_one_list(tmp_path):
    found = [
        Found("a.png", "image", PICTURE, 0.251, 1.237, 0.91, 0.05),
        Found("t:1", "text", "cats & <dogs>", 0.8, -0.5),
        Found("gone.png", "image", None, 0.2, -1.0),
    ]
    html = page(tmp_path, found)
    items = re.findall(r"<li.*?</li>", html)
    assert len(items) == 3
    assert 'src="data:image/jpeg;base64,' in items[0]
    for number in ("<i>z</i> 1.24", "<i>cos</i> 0.251", "<i>p</i> 0.91", "<i>u</i> 0.05"):
        assert number in items[0]
    assert "<q>cats &amp; &lt;dogs&gt;</q>" in items[1]
    assert "<i>u</i>" not in items[1]
    assert items[1].count("<span>") == items[0].count("<span>")  # so that the columns line up
    assert "<img" not in items[2]
    assert "a &lt;b&gt;cat" in html
    assert "2 image, 1 text" in html
    assert "u: uncertainty" in html
    assert not re.search(r"(src|href)=\"(?!data:)|https?:|<script", html)
    kinds = [re.search(r'class="(k\d)"', item)[1] for item in items]
    assert kinds[0] == kinds[2] != kinds[1]


def test_a_picture_can_ask(tmp_path):
    html = page(tmp_path, [Found("t:1", "text", "a cat", 0.8, -0.5)], PICTURE)
    assert html.count("<img") == 1
    assert "uncertainty" not in html
