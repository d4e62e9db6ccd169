"""What the documents say is run, and every public name is shown in one of them."""

import re
from pathlib import Path

import pytest

import twofold

ROOT = Path(__file__).parents[2]
RUN = (
    "tour",
    "linear",
    "behaviours",
    "journal",
    "feed",
    "curves",
    "workloads",
    "trace-guests",
    "traces",
    "dumps",
    "blocks",
    "paging",
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in RUN)]


@pytest.mark.medium
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)  # noqa: S102  our own pages


def test_every_public_name_is_shown_in_the_tour():
    shown = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    assert [name for name in twofold.__all__ if f"tf.{name}" not in shown] == []
