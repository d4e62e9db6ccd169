"""The page of miss curves: what stands in it, and that nothing from outside becomes markup."""

import json
import re
from html import escape

import numpy as np
import pytest

from twofold.errors import FormatError
from twofold.report import curves_html, write_curves
from twofold.report.curve_words import curve_headline
from twofold.report.page import library
from twofold.study import curves

HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">"""


@pytest.fixture(scope="module")
def found():
    trace = np.random.default_rng(1).integers(0, 1 << 24, 5000).astype(np.uint64)
    return curves(trace, ("4K", "2M"), (1, 128), ways=40)


@pytest.fixture(scope="module")
def page(found):
    return curves_html(found, "a trace")


def test_the_figure_and_the_table_have_every_point(found, page):
    drawn = json.loads(re.search(r'id="drawings">(.*?)</script>', page, re.DOTALL)[1])["drawings"]["curves"]
    assert [line["name"] for line in drawn["data"]] == [
        "4K pages, fully associative",
        "4K pages, 128 sets",
        "2M pages, fully associative",
        "2M pages, 128 sets",
    ]
    for line, curve in zip(drawn["data"], found, strict=True):
        assert line["x"] == [point.entries for point in curve.points()]
        assert line["y"] == [point.misses_per_1000 for point in curve.points()]
    rows = re.findall(r"<tr>.*?<td>([\d,]+)</td><td>([\d,]+)</td><td>([\d,]+)</td>", page)
    wanted = [(point.ways, point.entries, point.misses) for curve in found for point in curve.points()]
    assert [tuple(int(number.replace(",", "")) for number in row) for row in rows] == wanted


def test_a_title_from_outside_is_text(found):
    ours = curves_html(found, HOSTILE).replace(library(), "")
    assert "<img" not in ours
    assert "<script>window.hacked" not in ours


def test_equal_curves_give_equal_pages_that_load_nothing(found, page):
    assert curves_html(found, "a trace") == page
    assert not re.findall(r"https?:|\bsrc\s*=|@import|url\(", page.replace(library(), ""))


def test_a_page_that_cannot_be_written_is_an_error(found, tmp_path):
    with pytest.raises(FormatError, match="is a folder"):
        write_curves(found, "a trace", tmp_path)


@pytest.mark.medium
def test_a_browser_draws_the_curves_without_a_complaint(browser, found, tmp_path):
    path = tmp_path / "curves.html"
    write_curves(found, HOSTILE, path)
    complaints = []
    tab = browser.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#curves .scatterlayer .trace")
    assert tab.locator("#curves .scatterlayer .trace").count() == 4
    assert tab.evaluate("window.hacked") is None
    tab.close()
    assert complaints == []


# -- the answer -------------------------------------------------------------------------------------------------


CYCLE = np.tile(np.arange(40, dtype=np.uint64) << 12, 100)
ANSWERS = {
    "With 64 entries 0.0% of the accesses miss with 4K pages and 0.0% with 2M pages; 0.1% needs 40 entries with "
    "4K pages and 1 entry with 2M pages.": {"page_sizes": ("4K", "2M"), "ways": 64},
    "With 39 entries 100.0% of the accesses miss with 4K pages; 0.1% needs more than the 39 entries counted with "
    "4K pages.": {"ways": 39},
    "With 1,536 entries in 128 sets 0.0% of the accesses miss with 4K pages; 0.1% needs 128 entries with 4K pages.": {
        "sets": (128,)
    },
}


@pytest.mark.parametrize(("sentence", "structures"), ANSWERS.items())
def test_the_page_answers_its_question_in_a_sentence(sentence, structures):
    found = curves(CYCLE, **structures, warmup=40)
    assert curve_headline(found) == [sentence]
    assert f'to be?</h1>\n<p class="headline">{escape(sentence)}</p>' in curves_html(found, "a trace")


def test_where_no_access_counts_nothing_is_told():
    assert curve_headline(curves(CYCLE, ways=8, warmup=10_000)) == [
        "With 8 entries nothing is told: no access was counted."
    ]


def test_structures_with_other_numbers_of_sets_have_a_sentence_each(found, page):
    sentences = curve_headline(found)
    assert len(sentences) == 2
    assert [sentence in page for sentence in map(escape, sentences)] == [True, True]


def test_every_curve_has_a_line_of_its_own_and_the_page_is_below_two_megabytes():
    many = curves(CYCLE, ("4K", "2M", "1G"), (1, 2, 3, 5, 7, 9, 11, 13), ways=16)
    page = curves_html(many, "a trace")
    lines = json.loads(re.search(r'id="drawings">(.*?)</script>', page, re.DOTALL)[1])["drawings"]["curves"]["data"]
    assert len({(line["line"]["color"], line["line"]["dash"]) for line in lines}) == len(many) == 24
    assert len(page.encode()) < 2_000_000


@pytest.mark.medium
def test_on_paper_no_curve_and_no_figure_is_cut_off(browser, found, tmp_path):
    path = tmp_path / "curves.html"
    write_curves(found, "a trace of a program with a name that goes on and on", path)
    tab = browser.new_page(viewport={"width": 1366, "height": 800})
    tab.goto(path.as_uri())
    tab.wait_for_selector("#curves .scatterlayer .trace")
    tab.emulate_media(media="print")
    for width in (965, 1032):  # Letter and A4 across, without their margins
        tab.set_viewport_size({"width": width, "height": 703})
        box = tab.locator("#curves").bounding_box()
        assert box["x"] + box["width"] <= width
        assert box["height"] < 703
        assert tab.locator("#curves .main-svg").first.bounding_box() == box
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()
