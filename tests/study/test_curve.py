"""Miss curves against closed forms, and against the simplest LRU; blocks, warm-up, and what is refused."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold import kernels, spec
from twofold.errors import FormatError, SizeError
from twofold.guest import ACCESS_DTYPE
from twofold.guest.addresses import BLOCK, blocks_of, canonical
from twofold.study import Curve, curve, curves, curves_frame, curves_json, stream_trace
from twofold.trace import AREA_BASE, Trace, convert_trace, inspect_trace

PAGE = 4096
TRACES = Path(__file__).parents[1] / "golden" / "traces"
SAMPLES = sorted(path for path in TRACES.iterdir() if path.suffix in {".txt", ".csv", ".champsim", ".xz"})
ENGINES = pytest.mark.parametrize("engine", [spec, kernels], ids=["spec", "kernels"])


def pages(numbers):
    """Return an address on each page of an area."""
    return np.asarray(numbers, np.uint64) * np.uint64(PAGE) + np.uint64(AREA_BASE)


# -- closed forms ------------------------------------------------------------------------------------------------------


@ENGINES
@pytest.mark.parametrize("cycle", [1, 2, 7, 16, 40])
def test_a_cyclic_sweep_misses_never_or_always(engine, cycle):
    """Over n pages: all accesses hit with n entries or more, once the pages are there, and none with fewer."""
    trace = pages(np.tile(np.arange(cycle), 5))
    (found,) = curves(trace, sets=[1], ways=50, warmup=cycle, engine=engine)
    accesses = 4 * cycle
    assert found.misses == tuple(accesses if entries < cycle else 0 for entries in range(51))


@pytest.mark.parametrize("cycle", [16, 100, 144])
def test_a_cyclic_sweep_over_sets_misses_where_its_share_of_a_set_does_not_fit(cycle):
    sets = 16
    found = curve(pages(np.tile(np.arange(cycle), 4)), sets=sets, warmup=cycle)
    shares = np.bincount(np.arange(cycle) % sets)
    assert found.misses == tuple(3 * int(shares[shares > ways].sum()) for ways in range(17))


def test_uniform_random_pages_miss_in_the_share_that_is_not_held():
    """1 - E/N of E entries over N pages; here within five standard deviations for every E."""
    pages_, accesses = 256, 400_000
    trace = pages(np.random.default_rng(1).integers(0, pages_, accesses))
    found = curve(trace, ways=pages_, warmup=20_000)
    entries = np.arange(pages_ + 1)
    share = 1 - entries / pages_
    counted = accesses - 20_000
    spread = 5 * np.sqrt(counted * share * (1 - share)) + 1e-9
    assert np.all(np.abs(np.array(found.misses) - counted * share) <= spread)
    assert found.misses[pages_] == 0
    assert found.misses[0] == counted


def test_a_sequential_sweep_misses_once_a_page_of_whichever_size():
    """64-byte lines in sequence: 64 of them a 4K page, 512 pages of 4K in one of 2M, whatever the size of the TLB."""
    trace = np.arange(0, 8 << 20, 64, dtype=np.uint64) + np.uint64(AREA_BASE)
    small, large, huge = curves(trace, ("4K", "2M", "1G"), [1], ways=600)
    assert small.accesses == large.accesses == huge.accesses == 8 << 14
    assert set(small.misses[1:]) == {2048}
    assert set(large.misses[1:]) == {4}
    assert set(huge.misses[1:]) == {1}
    assert set(curve(trace, sets=64).misses[1:]) == {2048}


# -- any trace ---------------------------------------------------------------------------------------------------------


def lru_misses(numbers, sets, ways):
    """Return the misses of one structure: each set an ordered dict that holds so many pages."""
    held, count = {}, 0
    for page in numbers:
        pages_of_set = held.setdefault(page % sets, OrderedDict())
        count += page not in pages_of_set
        pages_of_set[page] = None
        pages_of_set.move_to_end(page)
        if len(pages_of_set) > ways:
            pages_of_set.popitem(last=False)
    return count


@ENGINES
@settings(deadline=None)
@given(
    numbers=st.lists(st.integers(0, 60) | st.sampled_from([2**36 - 1, 2**52 - 1]), max_size=150),
    sets=st.integers(1, 5),
    ways=st.integers(1, 40),
    warmup=st.integers(0, 160),
    cuts=st.lists(st.integers(0, 150), max_size=3),
)
def test_a_curve_is_what_a_tlb_of_each_size_misses(engine, numbers, sets, ways, warmup, cuts):
    gvas = np.array(numbers, np.uint64) * np.uint64(PAGE)
    blocks = np.split(gvas, sorted(min(cut, len(gvas)) for cut in cuts))
    (found,) = curves(iter(blocks), sets=[sets], ways=ways, warmup=warmup, engine=engine)
    assert found.ways == ways
    for count in range(1, ways + 1):
        whole, cold = (lru_misses(part, sets, count) for part in (numbers, numbers[:warmup]))
        assert found.misses[count] == whole - cold, count
    assert found.accesses == max(0, len(numbers) - warmup)


def test_a_full_structure_counts_alike_by_stacks_and_by_distances():
    trace = pages(np.random.default_rng(3).zipf(1.2, 30_000) % 500)
    assert curve(trace, sets=1, ways=16).misses == curve(trace, sets=1, ways=300).misses[:17]


def test_one_pass_gives_every_curve_that_was_asked_for():
    trace = pages(np.random.default_rng(4).integers(0, 3000, 20_000))
    found = curves(trace, ("4K", "2M"), (1, 16))
    assert [(each.page_size, each.sets, each.ways) for each in found] == [
        ("4K", 1, 65536),
        ("4K", 16, 16),
        ("2M", 1, 65536),
        ("2M", 16, 16),
    ]
    assert found == tuple(curve(trace, size, sets) for size in ("4K", "2M") for sets in (1, 16))


def test_a_trace_may_be_what_a_run_recorded_or_a_list_or_nothing():
    gvas = pages([1, 2, 1, 3])
    recorded = np.zeros(4, ACCESS_DTYPE)
    recorded["gva"] = gvas
    for trace in (gvas, gvas.tolist(), recorded, [gvas[:1], gvas[1:]], iter([gvas]), gvas.reshape(2, 2)):
        assert curve(trace, ways=3).misses == (4, 4, 3, 3)
    for nothing in ([], (), np.empty(0, np.uint64), iter(())):
        assert curve(nothing, ways=2).misses == (0, 0, 0)
        assert curve(nothing, ways=2).misses_per_1000(1) == 0


def test_a_trace_may_be_a_file_of_any_format_in_which_loads_and_stores_count(tmp_path):
    gvas, kinds = pages([1, 9, 2, 1, 3]), [0, 2, 1, 0, 1]
    Trace.of(gvas, kinds=kinds).save(tmp_path / "a.twotrace")
    rows = "".join(f"{gva},{'RWF'[kind]}\n" for gva, kind in zip(gvas.tolist(), kinds, strict=True))
    (tmp_path / "a.csv").write_text("gva,kind\n" + rows)
    for trace in (Trace.of(gvas, kinds=kinds), tmp_path / "a.twotrace", str(tmp_path / "a.csv")):
        assert curve(trace, ways=3).misses == (4, 4, 3, 3)
    (tmp_path / "a.csv").write_text("gva,kind\n" + rows + "?")
    with pytest.raises(FormatError, match=r"a\.csv: at byte \d+: line 7"):
        curve(tmp_path / "a.csv")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_every_format_gives_the_curve_of_its_loads_and_stores(sample, tmp_path):
    info, problem = inspect_trace(sample)
    assert problem is None
    found = curve(sample, ways=3)
    assert found.accesses == info.loads + info.stores > 0
    convert_trace(sample, tmp_path / "a.twotrace")
    assert curve(tmp_path / "a.twotrace", ways=3) == curve(Trace.load(tmp_path / "a.twotrace"), ways=3) == found


def test_a_stream_of_a_file_ends_where_it_is_told_to(tmp_path):
    Trace.of(np.arange(2 * BLOCK + 10) << 12).save(tmp_path / "a")
    for accesses in (1, BLOCK, BLOCK + 1, 2 * BLOCK + 10, 3 * BLOCK):
        blocks = list(stream_trace(tmp_path / "a", accesses=accesses))
        assert sum(map(len, blocks)) == min(accesses, 2 * BLOCK + 10)
        assert int(blocks[-1][-1]) >> 12 == min(accesses, 2 * BLOCK + 10) - 1
        assert all(len(block) for block in blocks)


def test_a_long_array_is_taken_in_blocks():
    assert [len(block) for block in blocks_of(np.zeros(2 * BLOCK + 5, np.uint64))] == [BLOCK, BLOCK, 5]


def test_canonical_addresses_repeat_bit_47():
    given_ = np.array([0x1234, 0x7FFF_FFFF_FFFF, 0x8000_0000_0000, 2**64 - 1, 0x00FF_0000_0000_1000], np.uint64)
    assert [hex(gva) for gva in canonical(given_).tolist()] == [
        "0x1234",
        "0x7fffffffffff",
        "0xffff800000000000",
        "0xffffffffffffffff",
        "0x1000",
    ]


# -- as people read it -------------------------------------------------------------------------------------------------


def test_points_are_every_way_up_to_16_then_powers_of_two_and_the_last():
    found = Curve("4K", 1, tuple(range(100, -1, -1)))
    assert [point.ways for point in found.points()] == [*range(1, 17), 32, 64, 100]
    assert [point.misses for point in found.points()][:3] == [99, 98, 97]
    assert Curve("2M", 8, (5, 5, 1)).points()[-1].entries == 16


def test_json_and_frame_have_every_curve():
    found = curves(pages([1, 2, 1]), ("4K", "2M"), (4,), ways=2)
    document = json.loads(curves_json(found))
    assert document == {
        "version": 1,
        "curves": [
            {"page_size": "4K", "sets": 4, "misses": [3, 2, 2]},
            {"page_size": "2M", "sets": 4, "misses": [3, 1, 1]},
        ],
    }
    frame = curves_frame(found)
    assert frame["misses"].to_list() == [2, 2, 1, 1]
    assert frame["entries"].to_list() == [4, 8, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"page_size": "3M"}, "is no page size"),
        ({"sets": 0}, "is no structure"),
        ({"sets": -4}, "is no structure"),
        ({"ways": 0}, "is no structure"),
        ({"sets": 2**21}, "is no structure"),
        ({"ways": 2**22 + 1}, "is no structure"),
        ({"warmup": -1}, "warm up"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(arguments, problem):
    with pytest.raises(SizeError, match=problem):
        curve([0], **arguments)


def test_a_curve_does_not_answer_beyond_its_ends():
    found = curve(pages([1, 1, 2, 1]), ways=2)
    assert found.misses_per_1000(2) == 500
    for ways in (-1, 3):
        with pytest.raises(SizeError, match="has 0 to 2"):
            found.misses_per_1000(ways)
