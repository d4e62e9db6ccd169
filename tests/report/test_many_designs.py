"""Pages of many designs in a browser, on a screen and on paper: every label is whole and apart from the others."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from outcomes import CPUS, DESIGNS, MODES, plain, scenario_of

from twofold.report import report_html, write_report
from twofold.trace import WORKLOADS

pytestmark = pytest.mark.medium

SIX = (*DESIGNS, "sixth")
BUILT_IN = DESIGNS[:3]
SHARES = dict.fromkeys(SIX, 0.5) | {"small": 0.0}
PAPERS = {"A4": 1032, "Letter": 965}  # across, between margins of 12 mm [pixels]
PAPER_HEIGHT = 703  # of A4, the lower one

SIDES = {
    "six designs": {"designs": SIX},
    "six of designs and behaviours": {"designs": BUILT_IN, "behaviours": ("twofold", "xen-4.17")},
    "six designs in every mode": {"designs": SIX, "modes": MODES, "workloads": ["gups"]},
    "six designs on every CPU": {"designs": SIX, "cpus": CPUS, "workloads": ["gups", "stream"]},
    "one design": {"designs": ("small",)},
}
TEXTS = """() => [...document.querySelectorAll(".drawing")].flatMap((drawing) => {
  const outer = drawing.getBoundingClientRect();
  return [...drawing.querySelectorAll("text")].filter((each) => each.textContent.trim()).map((each) => {
    const { left, right, top, bottom } = each.getBoundingClientRect();
    const isCut = left < outer.left - 1 || right > outer.right + 1 || top < outer.top - 1 || bottom > outer.bottom + 1;
    return { chart: drawing.id, text: each.textContent, left, right, top, bottom, isCut };
  });
})"""
# What sticks out of the page, or out of what hides or scrolls it.
CUT = """(width) => [...document.querySelectorAll("body *")].filter((each) => {
  const box = each.getBoundingClientRect();
  if (!box.width || each.closest("svg")) return false;
  const scrolls = getComputedStyle(each).overflowX !== "visible" && each.scrollWidth > each.clientWidth + 1;
  return box.right > width + 1 || box.left < -1 || scrolls;
}).map((each) => `${each.tagName} ${each.className} ${each.textContent.slice(0, 40)}`)"""
HEIGHTS = "() => [...document.querySelectorAll('figure')].map((each) => each.getBoundingClientRect().height)"
SVG_FITS = """() => [...document.querySelectorAll(".drawing")].every((each) => {
  const [drawing, svg] = [each, each.querySelector(".main-svg")].map((part) => part.getBoundingClientRect());
  return Math.abs(drawing.width - svg.width) < 1 && Math.abs(drawing.height - svg.height) < 1;
})"""
FIGURES_FIT = """() => [...document.querySelectorAll(".drawing")].every(
  (each) => each._fullLayout && Math.abs(each._fullLayout.width - each.clientWidth) < 1
)"""
PAPER_OF_FIGURES = "() => document.getElementById('blocks')._fullLayout.paper_bgcolor"


def outcome_with(side):
    """An outcome of every program with ranges, whose 1G guest pages are not possible."""
    scenario = scenario_of(states=2, **({"workloads": list(WORKLOADS)} | SIDES[side]))
    found = plain(scenario, SHARES, lambda row: 1.5 + row.seed / 10, impossible={"1G"})
    noise = np.random.default_rng(1)
    names = ("host", *found.variants)
    return replace(found, pictures={name: noise.integers(0, 4, (128, 128), np.uint8) for name in names})


@contextmanager
def opened(browser, outcome, path, **context):
    write_report(outcome, path)
    complaints = []
    tab = browser.new_context(offline=True, **context).new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.locator("#blocks .point").first.wait_for(state="attached")
    yield tab
    tab.context.close()
    assert complaints == []


def until(page, expression):
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def overlap(one, other):
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 1 and down > 3  # line boxes are a little taller than letters


@pytest.mark.parametrize("side", SIDES)
def test_no_label_is_cut_or_lies_over_another_on_any_screen(browser, tmp_path, side):
    with opened(browser, outcome_with(side), tmp_path / "report.html") as page:
        for width in (360, 800, 1366):
            page.set_viewport_size({"width": width, "height": 800})
            until(page, FIGURES_FIT)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            texts = page.evaluate(TEXTS)
            assert {"n/a", "gups", "2M"} <= {each["text"] for each in texts}
            assert [each["text"] for each in texts if each["isCut"]] == []
            charts = {each["chart"]: [] for each in texts}
            for each in texts:
                charts[each["chart"]].append(each)
            for name, found in charts.items():
                assert [(a["text"], b["text"]) for a, b in combinations(found, 2) if overlap(a, b)] == [], (name, width)


@pytest.mark.parametrize("side", SIDES)
def test_nothing_is_cut_off_on_paper(browser, tmp_path, side):
    with opened(browser, outcome_with(side), tmp_path / "report.html", viewport={"width": 1366, "height": 800}) as page:
        page.emulate_media(media="print")
        for paper, width in PAPERS.items():
            page.set_viewport_size({"width": width, "height": PAPER_HEIGHT})
            until(page, SVG_FITS)
            assert page.evaluate(CUT, width) == [], paper
            assert max(page.evaluate(HEIGHTS)) < PAPER_HEIGHT, "a figure that is higher than a page is torn"


def test_a_page_printed_without_another_size_of_window_fits_too(browser, tmp_path):
    """What is printed is laid out anew, and nothing tells the figures: they are scaled as they stand."""
    with opened(browser, outcome_with("six designs"), tmp_path / "report.html") as page:
        drawn = page.evaluate("document.getElementById('cycles-per-access-0')._fullLayout.width")
        page.evaluate(f"document.body.style.width = '{PAPERS['A4']}px'")
        page.emulate_media(media="print")
        assert page.evaluate("document.getElementById('cycles-per-access-0')._fullLayout.width") == drawn
        until(page, SVG_FITS)


def test_what_is_read_in_the_dark_is_printed_on_white(browser, tmp_path):
    with opened(browser, outcome_with("one design"), tmp_path / "report.html", color_scheme="dark") as page:
        assert page.evaluate(PAPER_OF_FIGURES) == "#15181c"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        until(page, f"({PAPER_OF_FIGURES})() === '#ffffff'")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        until(page, f"({PAPER_OF_FIGURES})() === '#15181c'")


@pytest.mark.parametrize("side", SIDES)
def test_a_page_of_many_is_below_two_megabytes(side):
    assert len(report_html(outcome_with(side)).encode()) < 2_000_000
