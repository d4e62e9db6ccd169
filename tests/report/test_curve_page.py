"""The page of miss curves: what stands in it, and that nothing from outside becomes markup."""

import json
import re

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from twofold.errors import FormatError
from twofold.report import curves_html, write_curves
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
    ours = curves_html(found, HOSTILE).replace(get_plotlyjs(), "")
    assert "<img" not in ours
    assert "<script>window.hacked" not in ours


def test_equal_curves_give_equal_pages_that_load_nothing(found, page):
    assert curves_html(found, "a trace") == page
    assert not re.findall(r"https?:|\bsrc\s*=|@import|url\(", page.replace(get_plotlyjs(), ""))


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
