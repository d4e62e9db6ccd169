"""Each page of published results: its code runs from top to bottom, and prints what the page says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

FOLDER = Path(__file__).parents[2] / "docs" / "reproductions"
PAGES = sorted(FOLDER.glob("[!R]*.md"))
SLOW = {"barcelona-ladder.md", "walk-caches.md"}  # guests of gigabytes, and many of them
BLOCKS = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)


def params():
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in PAGES]


@pytest.mark.parametrize("page", params())
def test_a_page_prints_the_figures_that_it_shows(page):
    blocks = BLOCKS.findall(page.read_text(encoding="utf-8"))
    names, shown = {}, 0
    for code, text in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)  # noqa: S102  our own pages
        assert printed.getvalue() == text
        shown += bool(text)
    assert shown, "a page shows figures"


def test_the_index_lists_every_page():
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))) == {
        page.name for page in PAGES
    }
