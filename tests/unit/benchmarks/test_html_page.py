"""Pages of HTML: what is put in stays text, and figures share a page."""

import re

from matplotlib.figure import Figure

from benchmarks.html_page import figure, figure_style, page, paragraph, table


def _figure(label: str) -> Figure:
    with figure_style():
        drawing = Figure()
        drawing.add_subplot().set_xlabel(label)
    return drawing


def test_texts_are_escaped() -> None:
    text = page("a < b", paragraph("<b>") + table(["<i>"], [["<u>"]]))
    for tag in ("<b>", "<i>", "<u>", "a < b"):
        assert tag not in text
    assert text.count("a &lt; b") == 2


def test_columns_of_numbers_are_aligned_right() -> None:
    rows = [["a", "1.5 ms", "1"], ["b", "endless", "a sentence, rather"]]
    text = table(["name", "value", "word"], rows)
    assert '<th scope="col" class="number">value</th>' in text
    assert '<td class="number">endless</td>' in text
    assert '<th scope="col">name</th>' in text and '<th scope="col">word</th>' in text


def test_a_table_may_be_empty() -> None:
    assert '<th scope="col">name</th>' in table(["name"], [])


def test_a_row_of_one_cell_is_a_heading() -> None:
    text = table(["", "value"], [["Latency"], ["TTFT", "1 s"]])
    assert '<th scope="colgroup" colspan="2">Latency</th>' in text


def test_names_that_look_like_mathematics_are_drawn_as_they_are() -> None:
    assert "$x^2$ \ufffd漢\ufffd" in figure(_figure("$x^2$ \x01漢\ud800"), "a")


def test_a_caption_is_text_in_the_drawing_and_below_it() -> None:
    text = figure(_figure("x"), 'a "<b>" \x00')
    assert text.count("&lt;b&gt;") == 3
    assert "<b>" not in text and "\x00" not in text


def test_figures_share_no_id() -> None:
    ids = re.findall(r' id="([^"]*)"', figure(_figure("x"), "a") + figure(_figure("x"), "b"))
    assert ids and len(set(ids)) == len(ids)


def test_colours_of_a_figure_follow_the_page() -> None:
    drawing = _figure("x")
    text = page("a", figure(drawing, "a"))
    used = set(re.findall(r"var\((--figure-\d+)\)", text))
    assert used
    light, dark = re.findall(r":root \{([^}]*)\}", text)
    for name in used:
        assert f"{name}:" in light and f"{name}:" in dark
