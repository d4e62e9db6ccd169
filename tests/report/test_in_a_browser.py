"""The page in a real browser, without a network: it draws everything, complains about nothing, fits small screens."""

import base64
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from twofold.report import write_report

pytestmark = pytest.mark.medium

PICTURES, CHARTS = 4, 2
DESIGN_COLOURS = [f"--design-{number}" for number in range(3)]
SIZE_COLOURS = [f"--size-{number}" for number in range(4)]
HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">"""

# Pixels of a screenshot by colour: the browser decodes its own PNG.
COUNT_COLOURS = """async (png) => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data;
  const counts = {};
  for (let at = 0; at < bytes.length; at += 4) {
    const colour = "#" + [0, 1, 2].map((part) => bytes[at + part].toString(16).padStart(2, "0")).join("");
    counts[colour] = (counts[colour] || 0) + 1;
  }
  return counts;
}"""
FIGURES_FIT = """() => [...document.querySelectorAll(".drawing")].every(
  (each) => Math.abs(each._fullLayout.width - each.clientWidth) < 1
)"""
PAPER_OF_FIGURES = "() => document.getElementById('blocks')._fullLayout.paper_bgcolor"
READ_BOXES = "all => all.map(each => each.getBoundingClientRect().toJSON())"
READ_COLOURS = "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"


@contextmanager
def opened(browser, outcome, path):
    """Write a report, open it without a network, wait until all is drawn; complaints of the browser are errors."""
    write_report(outcome, path)
    complaints = []
    context = browser.new_context(offline=True, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.extend(outside(request.url)))
    page.goto(path.as_uri())
    page.locator("#blocks .point").first.wait_for(state="attached")  # the last that is drawn
    yield page
    context.close()
    assert not complaints


def outside(url):
    """The address, unless it is the page itself or inside it."""
    return [] if url.startswith(("data:", "blob:")) or url.endswith("/report.html") else [url]


@pytest.fixture(scope="module")
def only_page(browser, outcome, tmp_path_factory):
    with opened(browser, outcome, tmp_path_factory.mktemp("page") / "report.html") as page:
        yield page


@pytest.fixture
def page(only_page):
    """The page as a laptop in the light shows it: opened once, because its library takes seconds to start."""
    only_page.emulate_media(color_scheme="light")
    resize(only_page, 1280)
    return only_page


def resize(page, width):
    """Give the window another width, and wait until the figures have followed."""
    page.set_viewport_size({"width": width, "height": 800})
    until(page, lambda: page.evaluate(FIGURES_FIT))


def until(page, condition, milliseconds=10_000):
    """Wait for a condition; the page's policy refuses Playwright's own way, which evaluates text in the page."""
    for _ in range(milliseconds // 50):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("the page never came to it")


def colours_of(page, selector):
    """How many pixels of each colour an element shows."""
    png = page.locator(selector).screenshot(animations="disabled")
    return page.evaluate(COUNT_COLOURS, base64.b64encode(png).decode())


def palette_of(page, names, mode):
    """The colours of these names, after the reader has changed to light or dark."""
    page.emulate_media(color_scheme=mode)
    until(page, lambda: [page.evaluate(PAPER_OF_FIGURES)] == page.evaluate(READ_COLOURS, ["--paper"]))
    return page.evaluate(READ_COLOURS, names)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_picture_shows_each_size_in_its_own_colour(page, outcome, mode):
    palette = palette_of(page, SIZE_COLOURS, mode)
    for number, name in enumerate(["host", *outcome.scenario.designs]):
        counts = colours_of(page, f"#picture-{number}")
        total, cells = sum(counts.values()), outcome.pictures[name].size
        for code in np.unique(outcome.pictures[name]).tolist():
            expected = np.count_nonzero(outcome.pictures[name] == code) / cells
            assert counts.get(palette[code], 0) / total == pytest.approx(expected, abs=0.03), (name, code)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_has_bars_in_the_colour_of_each_design(page, mode):
    palette = palette_of(page, DESIGN_COLOURS, mode)
    assert len(set(palette)) == len(palette)
    for chart in ("#reads-per-walk-0", "#cycles-per-access-0"):
        counts = colours_of(page, chart)
        assert all(counts.get(colour, 0) > 100 for colour in palette), chart
    assert len(colours_of(page, "#blocks")) > 10


def test_a_reader_who_changes_to_the_dark_gets_dark_figures(page):
    (paper,) = palette_of(page, ["--paper"], "dark")
    counts = colours_of(page, "#blocks")
    assert (max(counts, key=counts.get), paper) == ("#15181c", "#15181c")


def test_hovering_over_a_picture_says_what_a_cell_is(page):
    page.locator("#picture-1").hover(position={"x": 3, "y": 3})
    label = page.locator("#picture-1 .hoverlayer text").first
    label.wait_for()
    assert label.text_content() == "less than 2M0.0% of the way"


@pytest.mark.parametrize("width", [360, 800, 1366])
def test_the_page_never_scrolls_sideways_and_names_do_not_overlap(page, width):
    resize(page, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in ("#reads-per-walk-0", "#cycles-per-access-0", "#blocks"):
        for axis in (".xtick text", ".ytick text"):
            boxes = page.locator(f"{chart} {axis}").evaluate_all(READ_BOXES)
            assert boxes
            assert not [pair for pair in pairwise(boxes) if overlap(*pair)], (chart, axis)


def overlap(one, other):
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 1 and down > 3  # line boxes are a little taller than letters


def test_figures_have_words_for_those_who_do_not_see_them(page):
    assert page.locator(".drawing[role=img][aria-label]").count() == PICTURES + CHARTS + 1
    assert page.get_by_role("img", name="P2M of toolstack").count() == 1


def test_markup_in_a_hosts_note_does_not_run(browser, outcome, tmp_path):
    hostile = replace(outcome, host=replace(outcome.host, notes=(HOSTILE,), source=HOSTILE))
    with opened(browser, hostile, tmp_path / "report.html") as page:
        assert page.evaluate("window.hacked") is None
        assert HOSTILE in page.locator("#host").inner_text()
