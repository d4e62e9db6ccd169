"""A comparison on a terminal: true sentences, shared rows, and figures that are whole in any width."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import DESIGNS, MODES, outcomes, plain, scenario_of

from twofold.report import report_html
from twofold.report.grid import Grid, Head
from twofold.report.headline import headline
from twofold.report.outcome_view import outcome_view
from twofold.report.terminal import lay_out
from twofold.report.words import TERMINAL_FORMS
from twofold.study import answer_of, shared_rows

WIDTHS = (80, 100, 200)
GAINED = "against 4K only, programs run 1.05x (stream) to 1.74x (gups) as fast."
SHARES = {"small": 0.0, "toolstack": 0.683, "opportunistic": 0.683, "middle": 0.5}


def gain(row):
    """1.05 and 1.74 with 4K guest pages, 1.01 and 1.51 with larger ones."""
    if row.design == "small":
        return 1.0
    gups, stream = (1.74, 1.05) if row.guest_pages == "4K" else (1.51, 1.01)
    return gups if row.workload == "gups" else stream


def text_of(parts, width):
    return "\n".join(line.text for line in lay_out(parts, width))


def numbers(text):
    return re.findall(r"\d[\d.,]*[%x]?", text)


# -- the look of it ---------------------------------------------------------------------------------------------


def test_the_answer_comes_first_and_80_columns_suffice():
    outcome = plain(scenario_of(workloads=["gups", "stream"]), SHARES, gain, impossible={"1G"})
    assert text_of(outcome_view(outcome), 80).splitlines() == [
        "toolstack and opportunistic build the same tables: who asks makes no difference.",
        "They back 68.3% of the 3GiB guest with large pages (683 x 2M).",
        "Against 4K only, programs run 1.05x (stream) to 1.74x (gups) as fast, with 2M",
        "guest pages to 1.51x.",
        "guest program design                   large tables miss/1000 reads cycles  gain",
        "4K    gups    small                     0.0%     13     498.1  4.88  121.0 1.00x",
        "4K    gups    toolstack, opportunistic 68.3%     17     498.1  4.88   69.5 1.74x",
        "4K    stream  small                     0.0%     13     498.1  4.88  121.0 1.00x",
        "4K    stream  toolstack, opportunistic 68.3%     17     498.1  4.88  115.2 1.05x",
        "2M    gups    small                     0.0%     13     498.1  4.88  121.0 1.00x",
        "2M    gups    toolstack, opportunistic 68.3%     17     498.1  4.88   80.1 1.51x",
        "2M    stream  small                     0.0%     13     498.1  4.88  121.0 1.00x",
        "2M    stream  toolstack, opportunistic 68.3%     17     498.1  4.88  119.8 1.01x",
        "1G guest pages: not possible, a 1G page is larger than the area of 512MiB",
        "2 assumptions: --assumptions; every row: --all; pictures: --report page.html",
    ]


def test_a_wide_terminal_shows_more_and_a_pipe_without_a_width_all_of_it():
    outcome = plain(scenario_of(workloads=["gups"]), SHARES, gain)
    (wide,) = (line for line in text_of(outcome_view(outcome), 200).splitlines() if line.startswith("guest "))
    assert {"1G", "2M", "4K", "calls", "refused", "walking"} <= set(wide.split())
    assert text_of(outcome_view(outcome), None).splitlines()[3] == wide
    shared = text_of(outcome_view(outcome), 200).splitlines()[5]
    assert "9, 13" in shared, "who asks more often is not hidden"


def test_every_row_has_every_figure_with_its_range():
    scenario = scenario_of(workloads=["gups"], states=3, guest_pages=["4K"])
    outcome = plain(scenario, SHARES, lambda row: 1.0 + row.seed)
    text = text_of(outcome_view(outcome, every_row=True), None)
    assert text.count("2.00x [1.00x-3.00x]") == 3
    assert "--all" not in text
    narrow = text_of(outcome_view(outcome), 80)
    assert "Ranges over the host states: --all, or a wider terminal." in narrow
    assert "[1.00x-3.00x]" in text_of(outcome_view(outcome), 120)


def test_a_column_that_tells_nothing_is_left_out():
    outcome = plain(scenario_of(designs=["toolstack"], workloads=["gups"], guest_pages=["4K"]), SHARES, gain)
    assert text_of(outcome_view(outcome), 80).splitlines()[1:3] == [
        "guest program design    large 1G  2M  4K tables calls miss/1000 reads cycles",
        "4K    gups    toolstack 68.3%  0 683 100     17     9     498.1  4.88  121.0",
    ]


def test_where_nothing_is_possible_there_is_no_table():
    outcome = plain(scenario_of(guest_pages=["1G"]), SHARES, gain, impossible={"1G"})
    lines = text_of(outcome_view(outcome), 80).splitlines()
    assert not [line for line in lines if line.startswith("guest ")]
    assert "1G guest pages: not possible, a 1G page is larger than the area of 512MiB" in lines


def test_assumptions_and_host_are_shown_when_asked_for():
    outcome = plain(scenario_of(), SHARES, gain)
    text = text_of(outcome_view(outcome, assumptions=True, has_report=True), 80)
    assert "assumptions:\n- first\n- second\nevery row: --all" in text
    assert "host: 16GiB of 32GiB free" in text


def test_modes_and_cpus_stand_over_their_rows():
    outcome = plain(scenario_of(modes=MODES[:3:2], cpus=("zen3", "zen2"), guest_pages=["4K"]), SHARES, gain)
    lines = text_of(outcome_view(outcome), 80).splitlines()
    assert [line for line in lines if line.endswith(":")] == [
        "zen3, 4-level, 4K,2M,1G:",
        "zen3, pae, 4K,2M:",
        "zen2, 4-level, 4K,2M,1G:",
        "zen2, pae, 4K,2M:",
    ]
    assert sum(line.startswith("guest ") for line in lines) == 1


# -- any outcome, any width -------------------------------------------------------------------------------------


@pytest.mark.medium
@settings(max_examples=20)
@given(outcome=outcomes(), width=st.sampled_from(WIDTHS), every_row=st.booleans())
def test_no_line_is_too_long_and_no_figure_is_cut(outcome, width, every_row):
    text = text_of(outcome_view(outcome, every_row=every_row, assumptions=True), width)
    assert max(map(len, text.splitlines())) <= width
    free = text_of(outcome_view(outcome, every_row=every_row, assumptions=True), None)
    assert len(free.splitlines()) <= len(text.splitlines())
    said = set(numbers(text))
    for cells in shared_rows(outcome):
        for name, column in outcome.columns.items():
            spread = outcome.spread(cells[0], name)
            hidden = spread is None or any(outcome.texts(cells[0], "not_available"))
            if (column.brief or every_row) and not (hidden and not every_row) and spread is not None:
                assert TERMINAL_FORMS[column.kind](spread[0]).lstrip("<>") in said


@pytest.mark.medium
@settings(max_examples=20)
@given(outcome=outcomes())
def test_a_headline_says_nothing_that_is_not_so(outcome):
    sentences = headline(outcome)
    text = " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")
    answer = answer_of(outcome)
    groups = [group for mode in answer.modes for group in mode.groups]
    assert ("build the same tables" in text or ", the same tables" in text) <= any(
        len(each.names) > 1 for each in groups
    )
    assert ("who asks makes no difference" in text) <= any(each.asks_alike for each in groups)
    assert ("medians of" in text) == (len(outcome.scenario.seeds) > 1)
    assert ("Against" in text or "against" in text) <= ("small" in outcome.scenario.designs)
    for times in re.findall(r"[\d.]+x(?= |,|\.)", text):
        gains = [best for each in groups for found in each.gains for best in (found.least, found.greatest)]
        assert times in {f"{best.factor:.2f}x" for best in gains}
    assert all(sentence[-1] == "." for sentence in sentences)


@pytest.mark.medium
@settings(max_examples=10)
@given(outcome=outcomes())
def test_rows_are_shared_by_designs_that_built_and_cost_the_same(outcome):
    rows = shared_rows(outcome)
    assert sorted(cell for cells in rows for cell in cells) == sorted(outcome.cells())
    for cells in rows:
        for name in ("tables_digest", "speedup", "cycles_per_access", "not_available"):
            assert len({outcome.texts(cell, name) for cell in cells}) == 1


@settings(max_examples=20)
@given(
    names=st.lists(st.text("abc 0123456789-", max_size=60), min_size=1, max_size=5),
    figures=st.lists(st.integers(0, 10**30).map(str), min_size=0, max_size=12),
    width=st.integers(40, 300),
)
def test_a_table_fits_any_width_with_its_figures_whole(names, figures, width):
    heads = (Head("name", is_figure=False), *(Head(f"n{place}") for place in range(len(figures))))
    grid = Grid(heads, tuple((name, *figures) for name in names))
    lines = [line.text for line in grid.lines(width)]
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert all(words.count(figure) >= len(names) for figure in figures)


# -- sentences --------------------------------------------------------------------------------------------------


def said(*args, **fields):
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in headline(plain(*args, **fields))]


def test_designs_that_differ_have_a_sentence_each():
    scenario = scenario_of(designs=DESIGNS[:4], guest_pages=["4K"])
    assert said(scenario, SHARES | {"opportunistic": 0.5}, gain, same=(("opportunistic", "middle"),)) == [
        "opportunistic and middle build the same tables.",
        f"toolstack: 68.3% of the 3GiB guest in large pages (683 x 2M); {GAINED}",
        f"opportunistic and middle: 50.0% of the 3GiB guest in large pages (500 x 2M); {GAINED}",
    ]


def test_a_tie_of_different_tables_is_not_called_the_same():
    scenario = scenario_of(guest_pages=["2M"], workloads=["gups"])
    assert said(scenario, SHARES, gain, same=()) == [
        f"{design}: 68.3% of the 3GiB guest in large pages (683 x 2M); "
        "against 4K only, gups runs 1.51x as fast with 2M guest pages."
        for design in ("toolstack", "opportunistic")
    ]


def test_without_small_nothing_is_said_of_gains():
    assert said(scenario_of(designs=["toolstack"]), SHARES, gain) == [
        "toolstack backs 68.3% of the 3GiB guest with large pages (683 x 2M)."
    ]


def test_small_alone_gives_no_answer():
    assert said(scenario_of(designs=["small"]), SHARES, gain) == [
        "small alone was built: what large pages give the 3GiB guest is not told."
    ]


def test_where_nothing_is_large_that_is_the_answer():
    nothing = dict.fromkeys(SHARES, 0.0)
    assert said(scenario_of(), nothing, gain) == [
        "toolstack and opportunistic build the same tables: who asks makes no difference.",
        "No design gives the 3GiB guest a page larger than 4K.",
    ]


def test_what_all_is_measured_against_is_called_4k_only_where_it_is_that():
    shares = SHARES | {"small": 0.1}
    assert "Against small, programs run" in said(scenario_of(), shares, gain)[2]


def test_gains_that_read_the_same_are_one_figure():
    scenario = scenario_of(guest_pages=["4K", "2M"])
    assert said(scenario, SHARES, lambda _: 1.0041)[2] == (
        "Against 4K only, programs run 1.00x as fast, with 2M guest pages 1.00x."
    )


def test_several_cpus_are_named_where_the_figures_are_from():
    scenario = scenario_of(cpus=("zen3", "zen2"), guest_pages=["4K"])
    faster = said(scenario, SHARES, lambda row: gain(row) + (row.cpu == "zen2"))[2]
    assert faster == "Against 4K only, programs run 1.05x (stream on zen3) to 2.74x (gups on zen2) as fast."


def test_several_states_have_a_range_and_a_note():
    scenario = scenario_of(states=3, guest_pages=["4K"])
    outcome = plain(scenario, SHARES, gain)
    rows = [row for row in outcome.rows if row.design != "small"]
    for row in rows:
        object.__setattr__(row, "large_share", 0.6 + row.seed / 10)
    sentences = [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in headline(outcome)]
    assert "They back 70.0% [60.0%-80.0%] of the 3GiB guest" in sentences[1]
    assert sentences[-1] == "Figures are medians of 3 host states, with their range where it shows."


def test_modes_have_a_sentence_each_and_share_what_holds_in_all():
    scenario = scenario_of(modes=(MODES[3], MODES[2]), guest_pages=["4K"])
    assert said(scenario, SHARES, gain) == [
        "toolstack and opportunistic build the same tables in every mode: who asks makes no difference.",
        f"2-level, 4K,4M: 68.3% of the 3GiB guest in large pages (683 x 4M); {GAINED}",
        f"pae, 4K,2M: 68.3% of the 3GiB guest in large pages (683 x 2M); {GAINED}",
    ]
    different = said(scenario, SHARES, gain, same=())
    assert [sentence.split(" of ")[0] for sentence in different] == [
        f"{mode}: {design}: 68.3%"
        for mode in ("2-level, 4K,4M", "pae, 4K,2M")
        for design in ("toolstack", "opportunistic")
    ]


def test_behaviours_that_build_alike_are_named_together():
    scenario = scenario_of(behaviours=("twofold", "xen-4.17"), guest_pages=["4K"])
    assert said(scenario, SHARES, gain)[:2] == [
        "toolstack and opportunistic build the same tables: who asks makes no difference.",
        "toolstack (xen-4.17) and opportunistic (xen-4.17) build the same tables: who asks makes no difference.",
    ]


@pytest.mark.parametrize("behaviours", [("twofold",), ("twofold", "xen-4.17")])
def test_the_page_opens_with_the_same_sentences(behaviours):
    outcome = plain(scenario_of(behaviours=behaviours), SHARES, gain)
    assert f'<p class="headline">{" ".join(headline(outcome))}</p>' in report_html(outcome)
