"""Modes: what they are called, what is refused, and that every one of them is built, run, priced and pictured."""

import json
import re
from itertools import product

import polars as pl
import pytest

from twofold.errors import FormatError
from twofold.report.html import report_html
from twofold.study import Mode, Row, cells_of, compare, lay_over, make_scenario
from twofold.study.pictures import LARGE, MIDDLE
from twofold.units import parse_order

TINY = {
    "host": {"size": "1GiB", "free": 0.9, "fragmentation": 0.3},
    "guest": {"memory": "64MiB"},
    "accesses": 500,
    "executed": 20,
    "repeat": 1,
    "workloads": ["gups"],
}
EVERY = [
    {"host_paging": host, "table_format": table_format, "guest_mode": guest}
    for host, formats, guests in (
        ("4-level", ("npt", "ept", "ept-5"), ("4-level", "pae", "2-level")),
        ("5-level", ("npt", "ept", "ept-5"), ("4-level", "pae", "2-level")),
        ("pae", ("npt",), ("pae", "2-level")),
        ("2-level", ("npt",), ("2-level",)),
    )
    for table_format, guest in product(formats, guests)
]
LEVELS = {"4-level": 4, "5-level": 5, "pae": 3, "2-level": 2}


def tiny(**changes):
    return make_scenario(TINY | changes)


@pytest.fixture(scope="module")
def outcome():
    """Every mode that there is, on a CPU without caches."""
    return compare(tiny(modes=EVERY, designs=["small", "opportunistic"], cpus=["none"]))


@pytest.mark.medium
def test_every_mode_answers_alike_and_walks_as_far_as_its_tables_reach(outcome):
    assert {row.mode for row in outcome.rows} == {mode.name for mode in outcome.scenario.full_modes}
    assert len({row.mode for row in outcome.rows}) == len(EVERY) == 21
    for bits, modes in ((64, {"4-level"}), (32, {"pae", "2-level"})):
        answers = {row.answer for row in outcome.rows if row.guest_mode in modes and not row.not_available}
        assert len(answers) == 1, f"programs of {bits} bits"
    for row in outcome.rows:
        if row.design == "small" and row.guest_pages == "4K":
            deep = {"ept": 4, "ept-5": 5}.get(row.table_format, LEVELS[row.host_paging])
            assert row.reads_per_walk == (LEVELS[row.guest_mode] + 1) * (deep + 1) - 1, row.mode


@pytest.mark.medium
def test_a_mode_has_the_page_sizes_of_its_tables_inside_and_outside(outcome):
    for row in outcome.rows:
        sizes = [int(parse_order(size)) for size in row.page_sizes.split(",")]
        assert sizes == list(row.leaves)
        assert sum(count << order for order, count in row.leaves.items()) == (64 << 20 >> 12) + 17
    pages = {(row.guest_mode, row.guest_pages) for row in outcome.rows}
    assert pages == {
        *(("4-level", size) for size in ("4K", "2M", "1G")),
        *(("pae", size) for size in ("4K", "2M")),
        *(("2-level", size) for size in ("4K", "4M")),
    }


@pytest.mark.medium
def test_gains_are_measured_in_the_same_mode(outcome):
    for row in outcome.rows:
        if row.speedup is not None:
            same = [each for each in outcome.rows if (each.mode, *each.cell[:3]) == (row.mode, *row.cell[:3])]
            (base,) = (each for each in same if each.design == "small")
            assert row.speedup == base.cycles_per_access / row.cycles_per_access


def test_files_have_the_same_columns_whatever_the_mode(outcome, tmp_path):
    frame = outcome.to_frame()
    other = compare(tiny(modes=[{"host_paging": "2-level"}], designs=["small"], guest_pages=["4K"])).to_frame()
    assert (frame.columns, frame.dtypes) == (other.columns, other.dtypes)
    assert frame["version"].unique().to_list() == [2]
    assert [name for name in frame.columns if name.startswith("leaves")] == [
        f"leaves_{size}" for size in ("4k", "2m", "4m", "1g")
    ]
    assert other["leaves_2m"].to_list() == other["leaves_1g"].to_list() == [None]
    outcome.save(tmp_path / "r.parquet")
    assert pl.read_parquet(tmp_path / "r.parquet").equals(frame)


def test_rows_come_back_from_json(outcome):
    document = json.loads(outcome.to_json())
    assert document["version"] == 2
    assert tuple(map(Row.from_dict, document["rows"])) == outcome.rows


def test_leaves_of_4m_are_drawn_as_those_between_2m_and_1g():
    outcome = compare(tiny(modes=[{"host_paging": "2-level"}], designs=["opportunistic"], guest_pages=["4M"]))
    picture = outcome.pictures["opportunistic (2-level)"]
    assert MIDDLE in picture
    assert LARGE not in picture


@pytest.mark.medium
def test_the_page_shows_each_mode(outcome):
    page = report_html(outcome)
    text = page.split('<section id="table"')[1].split("</section>")[0]
    assert all(outcome.labels[variant] in text for variant in outcome.variants)
    assert "4M<br>leaves" in text


def test_one_area_serves_all_modes_so_that_they_compare():
    scenario = tiny(guest={"memory": "6GiB"}, host={"size": "16GiB"}, modes=[{}, {"host_paging": "5-level"}])
    assert {cell.footprint for cell in cells_of(scenario)} == {4 << 30}
    scenario = tiny(guest={"memory": "6GiB"}, host={"size": "16GiB"}, modes=[{}, {"guest_mode": "pae"}])
    assert {cell.footprint for cell in cells_of(scenario)} == {2 << 30}


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "4-level"),
        ({"page_sizes": "1G,4K,2M"}, "4-level"),
        ({"page_sizes": "4K,2M"}, "4-level 4K,2M"),
        ({"table_format": "ept"}, "4-level ept"),
        ({"host_paging": "5-level"}, "5-level"),
        ({"host_paging": "5-level", "guest_mode": "4-level"}, "5-level"),
        ({"host_paging": "pae", "guest_mode": "2-level"}, "pae 2-level guest"),
    ],
)
def test_a_mode_is_called_by_what_it_is(fields, name):
    assert Mode(**fields).name == name


def test_choices_are_laid_over_every_mode_once():
    modes = [{"host_paging": "pae", "page_sizes": "4K"}, {"host_paging": "2-level"}]
    assert lay_over(modes, {"guest_mode": ["2-level"]}) == [mode | {"guest_mode": "2-level"} for mode in modes]
    assert lay_over([{}], {"host_paging": ["pae", "4-level"], "paging": ["hap"]}) == [
        {"host_paging": "pae", "paging": "hap"},
        {"host_paging": "4-level", "paging": "hap"},
    ]
    assert lay_over(modes, {"host_paging": ["pae"]}, without=["page_sizes"]) == [{"host_paging": "pae"}]
    assert lay_over("pae", {"paging": ["hap"]}) == "pae"


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"modes": []}, "field modes"),
        ({"modes": [{"host": "pae"}]}, "field host of [[modes]] number 1: is unknown"),
        (
            {"modes": [{"host_paging": "3-level"}]},
            "field host_paging of [[modes]] number 1: unknown paging mode '3-level'",
        ),
        ({"modes": [{"paging": "pv"}]}, "field paging of [[modes]] number 1: unknown paging mode 'pv'"),
        (
            {"modes": [{"host_paging": "pae", "table_format": "ept"}]},
            "field modes number 1: unknown table format of a pae machine 'ept'; known are npt",
        ),
        ({"modes": [{"guest_mode": "5-level"}]}, "field modes number 1: unknown guest mode '5-level'"),
        (
            {"modes": [{"host_paging": "pae", "guest_mode": "4-level"}]},
            "field modes number 1: a pae machine cannot hold a 4-level guest; it holds 2-level, pae",
        ),
        ({"modes": [{"page_sizes": "4K,4M"}]}, "field modes number 1: size '4M' is no page size of a 4-level table"),
        ({"modes": [{}, {"page_sizes": "4K,2M,1G"}]}, "field modes: '4-level' is listed twice"),
        (
            {"modes": [{}, {"page_sizes": "4K,2M"}], "guest": {"page_sizes": "4K,2M"}},
            "field modes: '4-level 4K,2M' is listed twice",
        ),
        (
            {"modes": [{"host_paging": "2-level"}], "guest": {"page_sizes": "4K,2M"}},
            "field guest.page_sizes: size '2M' is no page size of a 2-level table; it has 4K, 4M",
        ),
        (
            {"modes": [{}, {"host_paging": "2-level"}], "guest_pages": ["2M"]},
            "field guest_pages: size '2M' is no page size of a 2-level guest; it has 4K, 4M",
        ),
        (
            {"modes": [{}, {"host_paging": "pae"}], "guest_pages": ["4K", "4M"]},
            "field guest_pages: size '4M' is no page size of a 4-level guest; it has 4K, 2M, 1G; a pae guest; it has",
        ),
        ({"cpus": ["zen3", {"name": "zen3"}]}, "field cpus number 2: CPU profile 'given' field title: Field required"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", str(value))[:50],
)
def test_what_does_not_go_together_is_refused_in_one_line(fields, problem):
    with pytest.raises(FormatError) as caught:
        tiny(**fields)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()
