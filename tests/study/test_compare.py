"""Comparisons: every cell, equal answers, the same bytes again, and what a scenario may not be."""

import io
import json
import os
import resource
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from twofold.errors import BuildError, FormatError, SizeError, TwofoldError
from twofold.freemaps import FreeMap
from twofold.report.html import report_html
from twofold.study import Outcome, Scenario, compare, load_scenario, make_scenario
from twofold.study import outcome as outcome_module
from twofold.trace import AREA_BASE, DEFAULT_WORKLOADS, WORKLOADS

TINY = {
    "host": {"size": "2GiB", "fragmentation": 0.6},
    "guest": {"memory": "128MiB"},
    "accesses": 2000,
    "executed": 50,
    "repeat": 1,
}
DESIGNS = ["small", "toolstack", "opportunistic"]


def tiny(**changes):
    return make_scenario(TINY | changes)


@pytest.fixture(scope="module")
def outcome():
    """All defaults but sizes: 3 designs, 3 guest page sizes, 4 workloads, one CPU."""
    return compare(tiny())


def rows_of(outcome, **fixed):
    return [row for row in outcome.rows if all(getattr(row, name) == value for name, value in fixed.items())]


# -- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_there_is_one_row_a_cell_in_the_order_of_the_scenario(outcome):
    scenario = outcome.scenario
    cells = product([cpu.name for cpu in scenario.cpus], scenario.workloads, scenario.guest_pages, scenario.designs)
    assert [row.cell for row in outcome.rows] == outcome.cells() == list(cells)
    assert len(outcome.rows) == 36


def test_answers_are_right_and_equal_across_designs_and_pages(outcome):
    for name in DEFAULT_WORKLOADS:
        workload = WORKLOADS[name]
        answers = {row.answer for row in rows_of(outcome, workload=name) if not row.not_available}
        assert answers == {f"{workload.answer(0, AREA_BASE, outcome.footprint, 50):#x}"}


def test_a_page_size_that_the_guest_cannot_hold_is_not_available_and_says_why(outcome):
    for row in rows_of(outcome, guest_pages="1G"):
        assert row.not_available == "a 1G page is larger than the area of 64MiB"
        assert row.answer is row.speedup is row.cycles_per_access is row.misses_per_1000 is None
        assert outcome.spread(row.cell, "speedup") is None
        assert outcome.spread(row.cell, "tables") == (row.tables,) * 3
    assert not [row for row in outcome.rows if row.not_available and row.guest_pages != "1G"]


def test_small_is_what_speed_ups_are_measured_against(outcome):
    for row in outcome.rows:
        if row.not_available:
            continue
        (base,) = rows_of(outcome, design="small", workload=row.workload, guest_pages=row.guest_pages)
        assert row.speedup == base.cycles_per_access / row.cycles_per_access
        assert row.speedup == 1 if row.design == "small" else row.speedup >= 1


def test_without_small_there_is_no_speed_up():
    outcome = compare(tiny(designs=["toolstack"], workloads=["gups"], guest_pages=["2M"]))
    assert [row.speedup for row in outcome.rows] == [None]
    assert outcome.rows[0].cycles_per_access is not None


def test_page_sizes_of_a_row_add_up_to_the_guest(outcome):
    special = 17  # frames of a PVH guest beside its RAM
    for row in outcome.rows:
        frames = sum(count << order for order, count in row.leaves.items())
        assert frames == (128 << 20) // 4096 + special
        assert row.large_share == pytest.approx(1 - row.leaves[0] / frames)
        assert row.design != "small" or row.leaves[18] == row.leaves[9] == 0


def test_page_sizes_of_the_p2m_are_kept_to():
    outcome = compare(tiny(guest=TINY["guest"] | {"page_sizes": "4K"}, workloads=["gups"], guest_pages=["4K"]))
    assert {row.leaves[9] for row in outcome.rows} == {0}
    assert all(row.speedup == pytest.approx(1, rel=0.01) for row in outcome.rows), "frames differ, page sizes do not"


def test_an_exact_range_stays_in_its_page_size_in_every_design():
    exact = [{"start": "0", "size": "64MiB", "page_size": "4K"}]
    outcome = compare(tiny(guest=TINY["guest"] | {"exact": exact}, workloads=["gups"], guest_pages=["4K"]))
    assert all(row.leaves[0] >= (64 << 20) // 4096 for row in outcome.rows)


def test_assumptions_say_what_the_figures_rest_on(outcome):
    text = "\n".join(outcome.assumptions)
    for word in ("2000 accesses", "warm-up of 1000", "64MiB", "50 steps", *DEFAULT_WORKLOADS):
        assert word in text


def test_progress_counts_every_cell_to_the_last():
    seen = []
    compare(tiny(workloads=["gups"], repeat=2), progress=lambda *news: seen.append(news))
    done = [(done, total) for _, done, total in seen if total]
    assert done[-1] == (18, 18)
    assert [count for count, _ in done] == sorted(count for count, _ in done)


def test_a_guest_larger_than_the_host_cannot_be_built():
    with pytest.raises(BuildError, match="make the guest smaller"):
        compare(tiny(guest={"memory": "4GiB"}))


@pytest.mark.parametrize("footprint", ["3MiB", "0", "32KiB"])
def test_a_footprint_that_no_workload_can_use_is_an_error(footprint):
    with pytest.raises(SizeError, match="power of two"):
        compare(tiny(guest=TINY["guest"] | {"footprint": footprint}))


# -- the same again ---------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_the_same_seed_gives_the_same_bytes(outcome):
    again = compare(tiny())
    assert again.to_json() == outcome.to_json()
    assert again.to_csv() == outcome.to_csv()
    assert {name: picture.tobytes() for name, picture in again.pictures.items()} == {
        name: picture.tobytes() for name, picture in outcome.pictures.items()
    }


def test_another_seed_gives_another_host():
    one, other = (compare(tiny(workloads=["gups"], guest_pages=["4K"], seed=seed)) for seed in (0, 1))
    assert one.host.digest != other.host.digest
    assert one.rows[0].answer != other.rows[0].answer


@pytest.mark.medium
def test_a_recorded_host_gives_what_the_synthetic_one_gave(tmp_path):
    free = FreeMap.synthetic("2GiB", fragmentation=0.6, seed=0)
    free.save(tmp_path / "host.twohost")
    one = compare(tiny(host={"snapshot": str(tmp_path / "host.twohost")}, workloads=["gups"]))
    other = compare(tiny(workloads=["gups"]))
    assert one.rows == other.rows
    assert str(tmp_path) not in one.to_json()


@pytest.mark.medium
def test_seeds_give_a_median_and_a_range():
    outcome = compare(tiny(repeat=3, workloads=["gups"], guest_pages=["4K"]))
    assert sorted({row.seed for row in outcome.rows}) == [0, 1, 2]
    assert len(outcome.cells()) == 3
    for cell in outcome.cells():
        counts = sorted(row.leaves[9] for row in outcome.rows if row.cell == cell)
        assert len(counts) == 3
        assert outcome.spread(cell, "leaves_2m") == (counts[1], counts[0], counts[2])
    middle, least, greatest = outcome.spread(outcome.cells()[0], "cycles_per_access")
    assert least < middle < greatest, "the frames of different seeds meet in different cache sets"


def test_only_a_synthetic_host_is_tried_with_several_seeds():
    assert list(make_scenario({"host": {"snapshot": "fresh"}, "repeat": 5}).seeds) == [0]
    assert list(tiny(repeat=3, seed=7).seeds) == [7, 8, 9]


# -- the shipped hosts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    """Both snapshots with a guest of a quarter of what is free."""
    few = {"accesses": 1000, "executed": 20, "workloads": ["gups"], "guest_pages": ["2M"]}
    return {name: compare(make_scenario({"host": {"snapshot": name}} | few)) for name in ("fresh", "fragmented")}


@pytest.mark.medium
@pytest.mark.parametrize("design", ["toolstack", "opportunistic"])
def test_on_the_fragmented_host_every_page_size_appears(shipped, design):
    (row,) = rows_of(shipped["fragmented"], design=design)
    assert min(row.leaves[18], row.leaves[9], row.leaves[0]) > 0
    assert row.leaves[0] > 100
    assert row.extents_refused > 0


@pytest.mark.medium
@pytest.mark.parametrize("design", ["toolstack", "opportunistic"])
def test_on_the_fresh_host_memory_is_large(shipped, design):
    (row,) = rows_of(shipped["fresh"], design=design)
    assert row.large_share > 0.99
    assert row.leaves[18] > 0


@pytest.mark.medium
@pytest.mark.parametrize("name", ["fresh", "fragmented"])
def test_small_has_small_pages_and_loses(shipped, name):
    (small,), *others = (rows_of(shipped[name], design=design) for design in DESIGNS)
    assert small.leaves[18] == small.leaves[9] == 0
    assert all(other.speedup > 1 for (other,) in others)
    assert all(other.tables < small.tables for (other,) in others)
    assert shipped[name].guest_bytes > 1 << 30


# -- saving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_a_saved_outcome_reads_back(outcome, tmp_path, ending):
    target = tmp_path / f"result.{ending}"
    outcome.save(target)
    outcome.save(target)  # over the old one
    assert list(tmp_path.iterdir()) == [target]
    if ending == "json":
        document = json.loads(target.read_text())
        assert document["version"] == 2
        assert len(document["rows"]) == 36
        assert "snapshot" not in document["scenario"]["host"]
    else:
        frame = pl.read_csv(target) if ending == "csv" else pl.read_parquet(target)
        assert frame.columns == outcome.to_frame().columns
        assert frame["design"].to_list() == [row.design for row in outcome.rows]
        assert frame["speedup"].to_list() == [row.speedup for row in outcome.rows]


def test_csv_has_a_header_and_a_line_a_row(outcome):
    frame = pl.read_csv(io.StringIO(outcome.to_csv()))
    assert frame.height == 36
    assert {"cpu", "workload", "guest_pages", "design", "speedup", "not_available"} <= {*frame.columns}


@pytest.mark.parametrize("name", ["missing/r.json", "r.txt", "r", "folder.csv", "missing/r.parquet", "", "."])
def test_a_place_that_cannot_be_written_is_refused_and_left_alone(outcome, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FormatError):
        outcome.save(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.csv"]


def test_a_device_or_pipe_is_not_replaced_by_a_file(outcome, tmp_path):
    pipe = tmp_path / "r.json"
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match="is no regular file"):
        outcome.save(pipe)
    assert pipe.is_fifo()


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_partial_one(outcome, tmp_path, ending):
    target = tmp_path / f"r.{ending}"
    target.write_text("old")

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    try:
        with pytest.raises(FormatError, match="File too large"):
            outcome.save(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"old"


def test_an_interrupted_write_leaves_no_partial_file(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome_module.write_whole(tmp_path / "r.json", interrupted)
    assert list(tmp_path.iterdir()) == []


# -- scenarios --------------------------------------------------------------------------------------------------


def refusal(text, tmp_path):
    """Return the one line with which a scenario file is refused."""
    path = tmp_path / "s.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError) as caught:
        make_scenario(load_scenario(path), path)
    line = str(caught.value).removeprefix(str(path))
    assert line.startswith(": ")
    assert len(line) < 500
    return line


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("colour = 1", "field colour: is unknown; known are host, guest"),
        ("[host]\nkernel = 1", "field host.kernel: is unknown; known are snapshot, size"),
        ("accesses = 'many'", "field accesses"),
        ("accesses = 0", "field accesses"),
        ("accesses = 1.5", "field accesses"),
        ("seed = -1", "field seed"),
        ("executed = 0", "field executed"),
        ("repeat = 0", "field repeat"),
        ("designs = 'small'", "field designs"),
        ("designs = []", "field designs"),
        ("workloads = []", "field workloads"),
        ("guest_pages = []", "field guest_pages"),
        ("cpus = []", "field cpus"),
        ("designs = ['small', 'small']", "field designs: 'small' is listed twice"),
        ("workloads = ['gups', 'chase', 'gups']", "field workloads: 'gups' is listed twice"),
        ("designs = ['tall']", "unknown design 'tall'; known are small, toolstack, opportunistic"),
        ("cpus = ['z80']", "unknown CPU 'z80'"),
        ("workloads = ['spec']", "unknown workload 'spec'"),
        ("guest_pages = ['4M']", "is no page size of a 4-level guest"),
        ("guest_pages = ['12Q']", "is no page size"),
        ("host = 'fresh'", "field host"),
        ("[host]\nsize = '12Q'", "field host.size: size '12Q' is no size"),
        ("[host]\nsize = '1GiB'\nsnapshot = 'fresh'", "not both"),
        ("[host]\nfree = 1.5", "field host.free"),
        ("[host]\nfree = nan", "field host.free"),
        ('[host]\nsnapshot = "a\\u0000b"', "is no file name"),
        ("[guest]\nmemory = ''", "field guest.memory"),
        ("[guest]\npage_sizes = '4K,4M'", "is no page size of a 4-level table"),
        ("[guest]\npage_sizes = '2M'", "lacks 4K"),
        ("[guest]\nlayout = 'pv'", "unknown layout 'pv'"),
        ("[guest]\ntable_pool = 1", "field guest.table_pool"),
        ("[[guest.exact]]\nstart = '0'", "field size of [[guest.exact]] number 1: is missing"),
        ("seed = -1\nrepeat = 0\naccesses = 0", "field accesses: 0 is no whole number from 1 to 1099511627776"),
        ("seed = ", "is no TOML"),
        ("seed = 1\nseed = 2", "is no TOML"),
        ("a = " + "[" * 100_000, "is nested too deeply"),
        ("a = " + "{a=" * 100_000, "is nested too deeply"),
        ("seed = " + "9" * 5000, "is no TOML"),
        ("[" + "a." * 5000 + "a]", "is nested too deeply"),
        ("'" + "x" * 100_000 + "' = 1", "field xxx"),
        (b"\xff\xfe", "is no text"),
        (b"#" * ((1 << 20) + 1), "larger than 1MiB"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_scenario_is_refused_in_one_line(text, problem, tmp_path):
    line = refusal(text, tmp_path)
    assert problem in line
    assert line.isprintable()


def test_what_a_file_says_reaches_no_terminal_as_it_is(tmp_path):
    assert refusal('"\\u001b[31m\\n" = 1', tmp_path).isprintable()


def test_a_file_that_is_not_there_or_never_ends_is_refused(tmp_path):
    for path, problem in (
        (tmp_path / "no.toml", "No such file"),
        (tmp_path, "directory"),
        (Path("/dev/zero"), "is no regular file"),
    ):
        with pytest.raises(FormatError, match=problem):
            load_scenario(path)


@pytest.mark.medium
def test_an_empty_file_is_the_default_scenario(tmp_path):
    (tmp_path / "s.toml").touch()
    assert make_scenario(load_scenario(tmp_path / "s.toml")) == Scenario()
    assert Scenario().warmup_accesses == 500_000


@pytest.mark.parametrize("host", [{"size": "0"}, {"size": "5000"}, {"size": "9999999T"}, {"size": "16MiB", "free": 0}])
def test_a_host_that_cannot_be_is_an_error_of_ours(host):
    with pytest.raises(TwofoldError):
        compare(tiny(host=host))


def test_an_outcome_says_what_it_is_without_its_pictures(outcome):
    assert isinstance(outcome, Outcome)
    assert "pictures" not in repr(outcome)


# -- behaviours -------------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_behaviours_stand_side_by_side_in_every_cell():
    scenario = tiny(behaviours=["twofold", "xen-4.17"], workloads=["gups"], guest_pages=["2M"], accesses=500)
    outcome = compare(scenario)
    assert outcome.variants == (*DESIGNS, *(f"{design} (xen-4.17)" for design in DESIGNS))
    assert [row.variant for row in outcome.rows] == list(outcome.variants)
    assert set(outcome.pictures) == {"host", *outcome.variants}
    (base,) = (row for row in outcome.rows if row.variant == "small")
    assert {row.answer for row in outcome.rows} == {base.answer}, "no behaviour changes what a program computes"
    for row in outcome.rows:
        assert row.speedup == base.cycles_per_access / row.cycles_per_access, "one base for all"
    calls = {row.variant: row.calls for row in outcome.rows}
    assert calls["toolstack (xen-4.17)"] > calls["toolstack"], "Xen's builder falls back in batches of 8 MiB"
    page = report_html(outcome)
    assert all(variant in page for variant in outcome.variants)


def test_a_behaviour_that_does_not_exist_is_named():
    with pytest.raises(
        FormatError, match=r"field behaviours number 1: unknown behaviour 'xen-3'; known are twofold, xen-4\.17"
    ):
        tiny(behaviours=["xen-3"])
