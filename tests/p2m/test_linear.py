"""The linear mapping: current and foreign look-ups agree in every format; its frames come and go with it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.domain import DomainOptions, Machine
from twofold.errors import AddressError, FormatError, HeapExhaustedError
from twofold.freemaps import FreeMap
from twofold.units import INVALID_MFN, ORDER_4K

MODES = ("4-level", "5-level", "pae", "2-level")
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["set", "split", "unmap", "merge"]),
        st.integers(0, 3),
        st.integers(0, 2000),
        st.integers(0, 2),
    ),
    max_size=12,
)


@given(st.sampled_from(MODES), ACTS, st.lists(st.integers(0, (1 << 20) - 1), max_size=10))
def test_current_and_foreign_always_agree(mode, acts, gfns):
    with Machine("4GiB", paging=mode) as machine:
        p2m = machine.create_domain("64MiB", options=DomainOptions(table_pool=60)).p2m
        orders, limit = p2m.geometry.leaf_orders, p2m.geometry.frame_limit
        asked = set(gfns)
        for act, quarter, offset, size in acts:
            order = orders[min(size, len(orders) - 1)]
            gfn = (quarter * limit // 4 + offset) >> order << order
            if act == "set":
                p2m.set_entry(gfn, 0x80000 + (offset >> order << order), order)
            elif act == "split":
                p2m.split(gfn, ORDER_4K)
            elif act == "merge":
                p2m.merge(gfn, order)
            else:
                p2m.unmap(gfn, 1 << order)
            asked |= {gfn, gfn + (1 << order) - 1, min(gfn + (1 << order), limit - 1)}
            for each in asked:
                assert p2m.gfn_to_mfn_current(each) == p2m.gfn_to_mfn_foreign(each)


@pytest.mark.parametrize("mode", MODES)
def test_the_windows_lie_apart_and_are_as_long_as_all_entries(mode):
    with Machine("1GiB", paging=mode) as machine:
        p2m = machine.create_domain("64MiB").p2m
        windows = p2m.linear.windows
        assert sorted(windows) == list(range(len(p2m.geometry.leaf_orders))), "one for each level that can hold a leaf"
        ends = sorted((window.base, window.base + window.bytes_) for window in windows.values())
        assert all(before[1] <= after[0] for before, after in pairwise(ends))
        last = p2m.geometry.frame_limit - 1
        for level, window in windows.items():
            entry_bytes = 4 if mode == "2-level" else 8
            assert p2m.linear.address(level, last) == window.base + window.bytes_ - entry_bytes
        with pytest.raises(AddressError, match="is beyond"):
            p2m.linear.address(0, last + 1)
        with pytest.raises(AddressError, match="has no window"):
            p2m.linear.address(3, 0)


@pytest.mark.parametrize("table_format", ["ept", "ept-5"])
def test_ept_has_none_and_says_why(table_format):
    with Machine("1GiB") as machine:
        p2m = machine.create_domain("64MiB", options=DomainOptions(table_format=table_format)).p2m
        p2m.set_entry(0x200, 0x400, 9)
        assert not p2m.linear.exists
        assert "no page-table entries to the CPU" in p2m.linear.why_not
        assert p2m.gfn_to_mfn_current(0x234) == 0x434, "current walks too"
        with pytest.raises(FormatError, match="does not exist"):
            p2m.linear.read(0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_its_frames_go_back_with_the_domain(mode):
    with Machine("1GiB", paging=mode) as machine:
        before = machine.heap.free_blocks()
        domain = machine.create_domain("64MiB")
        free = machine.heap.free_frames
        assert domain.p2m.gfn_to_mfn_current(0) == INVALID_MFN
        assert machine.heap.free_frames < free, "it was made at its first use"
        domain.destroy()
        assert machine.heap.free_blocks() == before


def test_without_frames_for_it_nothing_is_left_behind():
    with Machine(free=FreeMap.empty_machine("1MiB")) as machine:
        domain = machine.create_domain("64KiB", options=DomainOptions(layout="flat", table_pool=254))
        assert machine.heap.free_frames == 2
        with pytest.raises(HeapExhaustedError):
            domain.p2m.linear  # noqa: B018  making it is the test
        assert machine.heap.free_frames == 2
