"""The page as text: what stands in it, that it is whole, and that nothing from outside becomes markup."""

import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from outcomes import DESIGNS, MODES, plain, scenario_of

from twofold.errors import FormatError
from twofold.report import report_html, write_report
from twofold.report.figures import LETTERS
from twofold.report.page import library
from twofold.report.paints import design_paints
from twofold.report.words import between, count, listed, share
from twofold.study import make_scenario
from twofold.study.pictures import hilbert
from twofold.trace import DEFAULT_WORKLOADS

ROOT = Path(__file__).parents[2]
SHARES = dict.fromkeys(DESIGNS, 0.5) | {"small": 0.0}
HOSTILE = """</script><script>alert("note")</script><img src=x onerror='alert(1)'>&amp;"""


@pytest.fixture(scope="module")
def page(outcome):
    return report_html(outcome)


def ours(page):
    """The page without the drawing library inside it."""
    return page.replace(library(), "")


def words(markup):
    """What a reader sees of some markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def table_rows(page):
    """The rows of the full table, as words."""
    table = page.split('<section id="table"')[1].split("</section>")[0]
    return [words(row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL) if "<td" in row]


def drawn(page):
    return json.loads(re.search(r'id="drawings">(.*?)</script>', page, re.DOTALL)[1])


def unpacked(row):
    """The codes of a picture's row, three a letter."""
    return [LETTERS.index(letter) >> bit & 3 for letter in row for bit in (4, 2, 0)]


def relabelled(outcome, **fields):
    """The outcome with other fields in every row."""
    return replace(outcome, rows=tuple(replace(row, **fields) for row in outcome.rows))


@pytest.mark.medium
def test_the_page_holds_the_drawing_library_once_and_loads_nothing(page):
    assert page.count(library()) == 1
    assert not re.findall(r"https?:|\bsrc\s*=|@import|url\(", ours(page))
    assert re.findall(r'href="([^"]*)"', ours(page)) == ["data:,"]
    assert "default-src 'none'" in page


@pytest.mark.medium
def test_equal_outcomes_give_equal_pages(outcome, page):
    assert report_html(replace(outcome)) == page


def test_the_table_has_a_row_for_every_cell(outcome, page):
    rows = table_rows(page)
    assert len(rows) == len(outcome.cells())
    for row, cell in zip(rows, outcome.cells(), strict=True):
        assert cell[3] in row


def test_a_row_shows_the_median_and_the_range_over_the_host_states(outcome):
    doubled = [replace(row, misses_per_1000=row.seed + 7.0) if row.misses_per_1000 else row for row in outcome.rows]
    assert "7.5 [7.0\N{EN DASH}8.0]" in table_rows(report_html(replace(outcome, rows=tuple(doubled))))[0]


def test_a_page_size_that_does_not_fit_gives_its_reason(outcome, page):
    reason = next(row.not_available for row in outcome.rows if row.not_available)
    assert [row for row in table_rows(page) if f"n/a: {reason}" in row] == [
        row for row, cell in zip(table_rows(page), outcome.cells(), strict=True) if cell[2] == "1G"
    ]


def test_the_headline_names_the_designs_with_the_most_and_what_they_gain(page):
    headline = words(re.search(r'<p class="headline">(.*?)</p>', page, re.DOTALL)[1])
    assert headline.startswith(
        "toolstack and opportunistic build the same tables: who asks makes no difference. They back 99.9% of the "
        "128MiB guest with large pages (64 x 2M). Against 4K only, programs run "
    )
    assert "(gups) as fast, with 2M guest pages to" in headline
    assert "1G guest pages" not in headline


def test_the_headline_says_when_no_design_gives_large_pages(outcome):
    small = relabelled(outcome, large_share=0.0, leaves={0: 32785, 9: 0, 18: 0})
    assert "No design gives the 128MiB guest a page larger than 4K." in report_html(small)


def test_without_small_there_is_no_speed_up_and_the_page_says_so(outcome):
    rows = tuple(replace(row, speedup=None) for row in outcome.rows if row.design != "small")
    designs = ("toolstack", "opportunistic")
    alone = replace(outcome, rows=rows, scenario=outcome.scenario.model_copy(update={"designs": designs}))
    page = report_html(alone)
    assert "Against 4K only" not in page
    assert all(row.endswith("n/a") or "n/a: " in row for row in table_rows(page))


def test_a_design_from_elsewhere_gets_a_colour_of_its_own(outcome):
    designs = (*outcome.scenario.designs, "mine<1>")
    more = tuple(replace(row, design="mine<1>") for row in outcome.rows if row.design == "small")
    scenario = outcome.scenario.model_copy(update={"designs": designs})
    page = report_html(replace(outcome, rows=outcome.rows + more, scenario=scenario))
    bars = drawn(page)["drawings"]["reads-per-walk-0"]["data"]
    assert len({trace["marker"]["color"] for trace in bars}) == 4
    assert bars[3]["name"] == "mine&lt;1&gt;"
    assert "mine<1>" not in page


def test_hostile_notes_stay_text(outcome):
    host = replace(outcome.host, source=HOSTILE, assumption=HOSTILE, notes=(HOSTILE,), exact=False)
    page = report_html(replace(relabelled(outcome, not_available=HOSTILE), host=host, assumptions=(HOSTILE,)))
    assert HOSTILE not in page
    assert "<img" not in ours(page)
    assert ours(page).count("<script") == ours(page).count("</script>") == 3
    assert words(page.split('<section id="host"')[1]).count(HOSTILE.split("<", 1)[0]) >= 1


def test_hostile_names_cannot_end_the_data_block(outcome):
    page = report_html(relabelled(outcome, workload=HOSTILE, guest_pages=HOSTILE))
    assert ours(page).count("</script>") == 3
    (label,) = set(drawn(page)["drawings"]["reads-per-walk-0"]["data"][0]["x"][0])
    assert "<" not in label


def test_no_folder_gets_into_the_page(outcome):
    (cpu,) = outcome.scenario.cpus
    scenario = outcome.scenario.model_copy(update={"cpus": (replace(cpu, name="/some/where/own.toml"),)})
    page = ours(report_html(replace(relabelled(outcome, cpu="/some/where/own.toml"), scenario=scenario)))
    assert "/some/where" not in page
    assert "own.toml" in page


def test_the_page_tells_where_its_figures_come_from(outcome, page):
    text = words(ours(page))
    for sentence in (*outcome.assumptions, *outcome.host.notes):
        assert " ".join(sentence.replace("`", " ").split()) in text
    assert outcome.host.digest[:12] in text
    assert "host.fragmentation 0.3" in text


def test_an_assumed_host_is_told_from_a_known_one(outcome):
    host = replace(outcome.host, exact=False, assumption="blocks lie as they may", bounds={9: (1, 2)})
    text = words(ours(report_html(replace(outcome, host=host))))
    assert "assumption blocks lie as they may" in text
    assert "2M: 1 to 2" in text


def test_pictures_and_bars_are_drawn_from_the_outcome_unchanged(outcome, page):
    drawings = drawn(page)["drawings"]
    for number, name in enumerate(["host", *outcome.scenario.designs]):
        rows = [unpacked(row) for row in drawings[f"picture-{number}"]["data"][0]["z"]]
        assert np.array_equal(np.array(rows)[:, :128], outcome.pictures[name])
    bar = drawings["cycles-per-access-0"]["data"][1]
    middle, least, greatest = outcome.spread(("zen3", "gups", "4K", "toolstack"), "cycles_per_access")
    assert bar["y"][0] == middle
    assert bar["error_y"]["array"][0] == greatest - middle
    assert bar["error_y"]["arrayminus"][0] == middle - least
    assert (bar["text"][2], bar["error_y"]["array"][2]) == ("n/a", None)


def test_the_curve_runs_from_the_top_left_to_the_top_right(page):
    positions = drawn(page)["positions"]
    x, y = hilbert(7)
    assert positions[y[5]][x[5]] == 5
    assert (positions[0][0], positions[0][-1]) == (0, 128 * 128 - 1)


def test_free_blocks_are_bars_as_long_as_their_memory(outcome, page):
    trace = drawn(page)["drawings"]["blocks"]["data"][0]
    assert sum(trace["x"]) * 2**30 == pytest.approx(outcome.host.free_bytes)
    assert [int(text.replace(",", "")) for text in trace["text"] if text != "0"] == list(
        outcome.host.free_blocks.values()
    )


def test_a_report_is_written_whole_or_not_at_all(outcome, page, tmp_path):
    write_report(outcome, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    with pytest.raises(FormatError):
        write_report(outcome, tmp_path / "missing" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0.0%"), (0.0001, "<0.1%"), (0.5, "50.0%"), (0.9994, "99.9%"), (0.99997, ">99.9%"), (1, "100.0%")],
)
def test_only_all_is_100_per_cent_and_only_none_is_0(part, text):
    assert share(part) == text


def test_numbers_and_names_read_as_people_write_them():
    assert (count(1234), count(1.5), between(2, 2), between(2, 1000)) == ("1,234", "1.5", "2", "2 to 1,000")
    assert (listed(["a"]), listed(["a", "b", "c"])) == ("a", "a, b and c")


# -- what applied -----------------------------------------------------------------------------------------------


def scenario_said(outcome):
    """The names of the fields that the page's last list shows."""
    return set(re.findall(r"<dt>(.*?)</dt>", report_html(outcome).split("<h3>Scenario</h3>")[1]))


def test_fields_of_another_kind_of_host_are_not_shown(outcome):
    synthetic = {"host.size", "host.free", "host.fragmentation", "repeat"}
    said = scenario_said(outcome)
    assert synthetic <= said
    assert not said & {"host.packing", "host.page_kib"}
    recorded = plain(scenario_of(host={"snapshot": "fragmented"}), SHARES, lambda _: 1.5)
    assert {each for each in scenario_said(recorded) if each.startswith("host.")} == set()
    assert "repeat" not in scenario_said(recorded)
    copied = plain(
        scenario_of(host={"snapshot": "./copy", "page_kib": 64, "packing": "scattered"}), SHARES, lambda _: 1
    )
    assert {"host.packing", "host.page_kib"} <= scenario_said(copied)


def test_fields_that_are_for_programs_are_not_shown_of_a_trace(outcome):
    trace = make_scenario(
        {"host": {"size": "1GiB"}, "repeat": 2, "trace": {"file": "./mine.twotrace"}, "guest_pages": ["4K"]}
    )
    fields = {"executed", "workloads", "guest.footprint"}
    assert fields <= scenario_said(outcome)
    rows = tuple(row for row in outcome.rows if (row.workload, row.guest_pages) == ("gups", "4K"))
    page = replace(outcome, scenario=trace, rows=tuple(replace(row, workload=trace.programs[0]) for row in rows))
    assert not scenario_said(page) & fields
    assert {"trace.name", "trace.placement"} <= scenario_said(page)
    captions = map(words, re.findall(r"<figcaption>(.*?)</figcaption>", report_html(page), re.DOTALL))
    assert "Cycles per access, zen3 translation alone: what the program takes besides is in no trace" in captions


# -- many of them -----------------------------------------------------------------------------------------------


def test_the_page_of_the_default_comparison_is_below_two_megabytes():
    noise = np.random.default_rng(1).integers(0, 4, (128, 128), np.uint8)
    found = plain(scenario_of(states=5, workloads=list(DEFAULT_WORKLOADS)), SHARES, lambda row: 1.5 + row.seed)
    found = replace(found, pictures=dict.fromkeys(("host", *found.variants), noise))
    assert len(report_html(found).encode()) < 2_000_000


def test_designs_are_told_apart_however_many_there_are():
    for modes, most in ((1, 8), (4, 32)):
        scenario = scenario_of(modes=MODES[:modes], designs=[f"design-{number}" for number in range(8)])
        paints = design_paints(plain(scenario, dict.fromkeys(scenario.designs, 0.5), lambda _: 1.0))
        assert len(set(paints.values())) == len(paints) == most
    shown = plain(scenario_of(behaviours=("twofold", "xen-4.17")), SHARES, lambda _: 1.0)
    assert [paint.number for paint in design_paints(shown).values()] == list(range(6))


def test_a_chart_has_one_word_for_bars_without_a_height_that_stand_side_by_side():
    found = plain(scenario_of(workloads=["gups"]), SHARES, lambda _: 1.5, impossible={"1G"})
    bars = drawn(report_html(found))["drawings"]["cycles-per-access-0"]["data"]
    assert [trace["text"] for trace in bars] == [["", "", ""], ["", "", "n/a"], ["", "", ""]]


def test_programs_that_have_no_room_in_one_chart_get_others():
    def charts(**fields):
        found = report_html(plain(scenario_of(**fields), SHARES | {"middle": 0.5}, lambda _: 1.5))
        drawings = drawn(found)["drawings"]
        return [list(dict.fromkeys(drawings[name]["data"][0]["x"][0])) for name in drawings if "cycles" in name]

    four = ["gups", "stream", "chase", "lookup"]
    assert charts(workloads=four) == [four]
    assert charts(workloads=four, designs=DESIGNS[:4], behaviours=("twofold", "xen-4.17")) == [[name] for name in four]
    assert charts(workloads=four, cpus=("zen3", "zen2")) == [four, four]


def test_a_programs_name_that_is_too_long_for_a_chart_is_cut_there_alone(outcome):
    name = "a-trace-of-a-program-with-a-name-that-goes-on-and-on.twotrace"
    page = report_html(relabelled(outcome, workload=name))
    (label,) = set(drawn(page)["drawings"]["cycles-per-access-0"]["data"][0]["x"][0])
    assert name.startswith(label[:-1])
    assert label.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert name in words(page.split('<section id="table"')[1])


def test_the_library_is_the_one_that_was_looked_at():
    folder = resources.files("twofold") / "data" / "plotly"
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {"plotly-cartesian.min.js", "LICENSE"}
    for name, wanted in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert f"v{re.search(r'^PLOTLY := (.*)', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]}\n" in library()[:200]
