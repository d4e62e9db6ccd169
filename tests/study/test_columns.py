"""A new column of the comparison is a field and its value: files, tables and the page follow by themselves."""

import json
from dataclasses import dataclass, fields

import pytest

from twofold.report import report_html
from twofold.report.outcome_view import outcome_view
from twofold.report.terminal import lay_out
from twofold.study import Row, compare, make_scenario, row

TINY = {
    "host": {"size": "1GiB"},
    "guest": {"memory": "64MiB"},
    "accesses": 200,
    "executed": 10,
    "repeat": 1,
    "workloads": ["gups"],
    "guest_pages": ["4K"],
}


@dataclass(frozen=True, kw_only=True)
class Wider(Row):
    """A row with one more column, as `study.row` would have it."""

    far_extents: int = row._built("far", "extents\nfrom far", "count")


@pytest.fixture
def wider(monkeypatch):
    """A comparison whose rows have one more column than Twofold knows."""
    outcome = compare(make_scenario(TINY))
    monkeypatch.setattr(row, "Row", Wider)
    rows = tuple(
        Wider(**{each.name: getattr(old, each.name) for each in fields(old)}, far_extents=700 + place)
        for place, old in enumerate(outcome.rows)
    )
    return type(outcome)(**{each.name: getattr(outcome, each.name) for each in fields(outcome)} | {"rows": rows})


def test_a_column_more_stands_in_every_file(wider):
    assert wider.to_frame()["far_extents"].to_list() == [700, 701, 702]
    assert [each["far_extents"] for each in json.loads(wider.to_json())["rows"]] == [700, 701, 702]
    assert wider.to_csv().splitlines()[0].count("far_extents") == 1


def test_a_column_more_stands_in_the_table_and_on_the_page(wider):
    table = "\n".join(line.text for line in lay_out(outcome_view(wider, every_row=True), None))
    head = next(line for line in table.splitlines() if line.startswith("guest "))
    assert "far" in head.split()
    assert all(str(count) in table for count in (700, 701, 702))
    page = report_html(wider)
    assert ">extents<br>from far</th>" in page
    assert all(f"<td>{count}</td>" in page for count in (700, 701, 702))
