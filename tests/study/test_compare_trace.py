"""A comparison on a trace of one's own: cells that know it, one reading, and memory that does not grow with it."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from twofold.domain import Machine, build
from twofold.errors import FormatError, SizeError
from twofold.guest import TraceGuest
from twofold.memory import resident_bytes
from twofold.report import report_html
from twofold.report.headline import headline
from twofold.study import Cell, Row, cells_of, compare, curve, make_scenario, run_cell, simulate
from twofold.study.held import held_trace, open_trace, read_accesses
from twofold.trace import Trace

PAGES = 2000
FIELDS = {
    "host": {"size": "1GiB"},
    "guest": {"memory": "64MiB"},
    "repeat": 2,
    "designs": ["small", "opportunistic"],
    "modes": [{}, {"host_paging": "pae"}],
}


@pytest.fixture(scope="module")
def gvas():
    return np.random.default_rng(1).integers(0x10000, 0x10000 + PAGES, 30_000).astype(np.uint64) << np.uint64(12)


@pytest.fixture(scope="module")
def scenario(gvas, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "mine.twotrace"
    Trace.of(gvas, kinds=np.arange(len(gvas)) % 2).save(path)
    return make_scenario(FIELDS | {"trace": {"file": str(path)}, "warmup": 1000})


@pytest.fixture(scope="module")
def outcome(scenario):
    return compare(scenario)


def test_a_trace_has_a_cell_for_each_page_policy_that_the_mode_has(scenario, outcome):
    cells = cells_of(scenario)
    assert [cell.key for cell in cells] == [row.cell for row in outcome.rows]
    assert [cell.digest for cell in cells] == [row.cell_digest for row in outcome.rows]
    pages = {mode: [cell.guest_pages for cell in cells if cell.mode.name == mode] for mode in ("4-level", "pae")}
    assert {mode: set(found) for mode, found in pages.items()} == {"4-level": {"4K", "thp", "1G"}, "pae": {"4K", "thp"}}
    assert {cell.accesses for cell in cells} == {29_000}
    assert {cell.footprint for cell in cells} == {PAGES << 12} == {outcome.footprint}


def test_a_cell_of_a_trace_alone_gives_the_row_that_it_gives_among_others(scenario, outcome):
    cells = cells_of(scenario)
    for place in (0, 5, len(cells) - 1):
        again = Cell.model_validate_json(cells[place].model_dump_json())
        assert (again, again.digest) == (cells[place], cells[place].digest)
        assert run_cell(scenario, again) == outcome.rows[place]
    assert all(Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row for row in outcome.rows)


def test_a_cell_is_not_priced_on_another_trace(scenario, gvas, tmp_path):
    Trace.of(gvas).save(tmp_path / "mine.twotrace")
    other = make_scenario(FIELDS | {"trace": {"file": str(tmp_path / "mine.twotrace")}, "warmup": 1000})
    with pytest.raises(FormatError, match="is not the trace that the cell is about"):
        run_cell(other, cells_of(scenario)[0])


def test_what_cannot_be_mapped_is_not_available_with_its_reason(outcome):
    reasons = {row.guest_pages: row.not_available for row in outcome.rows if row.mode == "4-level"}
    assert "aligned blocks of" in reasons["1G"]
    assert reasons["4K"] == reasons["thp"] == ""
    assert all(
        (row.answer is None) and (row.cycles_per_access is None) == bool(row.not_available) for row in outcome.rows
    )


def test_the_answer_says_translation_and_not_that_a_program_runs_faster(outcome):
    said = " ".join(headline(outcome))
    assert "the accesses of mine.twotrace are translated" in said
    assert "program" not in said
    page = report_html(outcome)
    assert "the program&#x27;s own cycles together" not in page
    assert "translation alone" in page


def test_a_trace_is_the_same_wherever_it_lies_and_whatever_form_it_has(scenario, outcome, gvas, tmp_path):
    lines = [f" {'LS'[place % 2]} {gva:x},8\n" for place, gva in enumerate(gvas.tolist())]
    (tmp_path / "mine.twotrace").write_text("".join(lines))
    other = make_scenario(
        FIELDS | {"trace": {"file": str(tmp_path / "mine.twotrace"), "format": "lackey"}, "warmup": 1000}
    )
    assert compare(other).to_json() == outcome.to_json()


def test_a_path_is_taken_wherever_a_trace_is(gvas, tmp_path):
    kinds = (np.arange(3000) % 2).astype(np.uint8)
    (tmp_path / "t.csv").write_text(
        "gva,kind\n" + "".join(f"{gva:#x},{'RW'[kind]}\n" for gva, kind in zip(gvas[:3000], kinds, strict=True))
    )
    with Machine("256MiB") as machine:
        domain = machine.create_domain("64MiB")
        build(domain)
        for path in (tmp_path / "t.csv", str(tmp_path / "t.csv")):
            stats = simulate(path, TraceGuest(domain, path))
            assert stats == simulate(gvas[:3000], TraceGuest(domain, gvas[:3000]))
    assert curve(tmp_path / "t.csv", ways=8) == curve(gvas[:3000], ways=8)
    assert make_scenario({"trace": {"file": tmp_path / "t.csv"}}).programs == ("t.csv",)


def test_a_scenario_with_a_trace_goes_through_json(scenario):
    again = type(scenario).model_validate_json(scenario.model_dump_json())
    assert again == scenario
    assert again.programs == ("mine.twotrace",)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"workloads": []}, "field workloads"),
        ({"accesses": None}, "field accesses"),
        ({"trace": {"file": "t"}, "workloads": ["gups"]}, "field workloads"),
        ({"trace": {"file": "t"}, "guest": {"footprint": "1MiB"}}, "field guest.footprint"),
        ({"trace": {}}, "field trace.file"),
        ({"trace": {"file": "t", "policy": "thp"}}, "field trace.policy"),
        ({"trace": {"file": "t", "format": "pin"}}, "trace format 'pin'"),
        ({"trace": {"file": "t", "placement": "near"}}, "placement 'near'"),
        ({"trace": {"file": "t"}, "modes": [{"host_paging": "pae"}], "guest_pages": ["1G"]}, "it has 4K, thp"),
        ({"guest_pages": ["4k", "4K"]}, "listed twice"),
    ],
)
def test_a_scenario_names_what_does_not_go_with_a_trace(fields, problem):
    with pytest.raises(FormatError) as refused:
        make_scenario(fields)
    assert problem in str(refused.value)


# -- holding a trace ----------------------------------------------------------------------------------------------


def test_no_more_of_a_trace_is_read_and_told_than_is_priced(tmp_path):
    (tmp_path / "t").write_text("".join(f" L {page << 12:x},8\n" for page in range(20_000)) + "garbage\n")
    with held_trace(tmp_path / "t", "lackey", warmup=5, accesses=10) as held:
        assert (held.warmup, held.accesses, held.footprint) == (5, 10, 15 << 12)
        assert [len(block) for block, _ in held.blocks()] == [15]
        digest = held.digest
    Trace.of(np.arange(15) << 12).save(tmp_path / "own")
    with held_trace(tmp_path / "own") as held:
        assert (held.accesses, held.digest) == (15, digest)
    with pytest.raises(FormatError, match="garbage"), held_trace(tmp_path / "t", "lackey"):
        pass


def test_a_trace_without_anything_to_count_is_refused(tmp_path):
    (tmp_path / "t").write_text("I  400000,4\n")
    with pytest.raises(FormatError, match="no load and no store"), held_trace(tmp_path / "t", "lackey"):
        pass
    (tmp_path / "t").write_text(" L 1000,8\n L 2000,8\n")
    with pytest.raises(SizeError, match="the trace has 2 loads and stores"), held_trace(tmp_path / "t", warmup=2):
        pass


def test_no_room_for_a_trace_is_one_line_that_names_the_folder(tmp_path, monkeypatch):
    (tmp_path / "t").write_text(" L 1000,8\n")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    said = r"cannot hold the trace's accesses: No space left.*TMPDIR"
    with pytest.raises(FormatError, match=said), open_trace(tmp_path / "t"):
        pass


def test_what_a_trace_is_kept_in_has_no_name(tmp_path, monkeypatch):
    (tmp_path / "t").write_text(" L 1000,8\n")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with open_trace(tmp_path / "t") as trace:
        assert len(trace) == 1
        assert list((tmp_path / "temporary").iterdir()) == [], "whatever ends the process leaves nothing"


def test_both_ways_to_a_trace_give_the_same_accesses(tmp_path):
    (tmp_path / "t").write_text("I  400000,4\n L 1000,8\n S 2000,8\n M 3000,4\n")
    with open_trace(tmp_path / "t") as trace:
        kept = pairs(trace.accesses())
    assert pairs(read_accesses(tmp_path / "t")) == kept == [(0x1000, 0), (0x2000, 1), (0x3000, 0), (0x3000, 1)]


def pairs(blocks):
    """Return (gva, kind) of each access."""
    return [pair for gvas, kinds in blocks for pair in zip(gvas.tolist(), kinds.tolist(), strict=True)]


@pytest.mark.medium
def test_a_long_trace_of_another_tool_takes_little_memory(tmp_path):
    """Ten million accesses are 90 MB of columns; what is held of them is a part or two."""
    lines = "".join(f" L {page << 12:x},8\n" for page in range(1 << 12)).encode()
    with (tmp_path / "t").open("wb") as file:
        for _ in range(2500):
            file.write(lines)
    with held_trace(tmp_path / "t", accesses=1 << 20) as held:
        assert held.accesses == 1 << 20  # what is loaded once is loaded
    before = resident_bytes()
    with held_trace(tmp_path / "t") as held:
        assert held.accesses == 2500 << 12
        most = max(resident_bytes() for _ in held.blocks())
    assert most - before < 60 << 20
