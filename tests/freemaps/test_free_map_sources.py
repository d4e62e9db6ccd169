"""Reading free memory from the kernel's files: copies of real ones, broken ones, and this host's."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.errors import HostError, UnknownNameError
from twofold.freemaps import FreeMap, buddyinfo, kpageflags
from twofold.freemaps.buddyinfo import BuddyCounts
from twofold.units import FRAME_BYTES

FREE = 1 << 10
DESKTOP = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone    DMA32      2      3      0      2      3      2      1      4      4      2    752
Node 0, zone   Normal    721    828    841    597    394    246    167    104     69     44    238
"""
TWO_NODES = """\
Node 0, zone      DMA      1      1      0      0      2      1      1      0      1      1      3
Node 0, zone    DMA32   1012    804    513    240     90     31      8      3      2      1    301
Node 0, zone   Normal  90210  41011  20133   9020   4510   1200    301     44      9      2     17
Node 1, zone   Normal   7301   4022   2009   1013    480    240    122     60     29     15   3302
"""
# MAX_PAGE_ORDER is a build option: arm64 with 64K pages and old kernels have other numbers of columns.
FEWER_ORDERS = "Node 0, zone   Normal     10      5      3      2      1      7\n"
MORE_ORDERS = "Node 0, zone   Normal 4 4 4 4 4 4 4 4 4 4 4 4 4 9\n"
LAYOUTS = [DESKTOP, TWO_NODES, FEWER_ORDERS, MORE_ORDERS]


def write_words(path: Path, words: list[int]) -> Path:
    path.write_bytes(struct.pack(f"<{len(words)}Q", *words))
    return path


def test_kpageflags_runs_are_the_frames_with_the_buddy_bit(tmp_path):
    path = write_words(tmp_path / "kpageflags", [0, FREE, FREE | 8, 1 << 11, 0, FREE, 1 << 9, FREE, FREE])
    runs = kpageflags.read_kpageflags(path)
    assert runs.starts.tolist() == [1, 5, 7]
    assert runs.frames.tolist() == [2, 1, 2]
    assert runs.machine_frames == 9


@given(mask=st.lists(st.booleans(), min_size=1, max_size=200).filter(any))
def test_kpageflags_runs_do_not_depend_on_how_the_file_is_cut_into_reads(tmp_path_factory, mask):
    path = write_words(tmp_path_factory.mktemp("flags") / "kpageflags", [FREE * bit for bit in mask])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kpageflags, "CHUNK_BYTES", 24)
        runs = kpageflags.read_kpageflags(path)
    free = np.zeros(len(mask), dtype=bool)
    for start, frames in zip(runs.starts.tolist(), runs.frames.tolist(), strict=True):
        free[start : start + frames] = True
    assert free.tolist() == mask


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ended after 0 frames"),
        (b"\0" * 12, "no whole number of 8-byte words"),
        (b"\0" * 800, "marks none of 100 frames as free"),
    ],
)
def test_an_empty_odd_or_blank_kpageflags_is_an_error_not_a_full_machine(tmp_path, content, problem):
    path = tmp_path / "kpageflags"
    path.write_bytes(content)
    with pytest.raises(HostError, match=problem):
        FreeMap.from_kpageflags(path)


def test_a_kpageflags_shorter_than_the_machine_is_an_error(tmp_path):
    path = write_words(tmp_path / "kpageflags", [FREE] * 10)
    with pytest.raises(HostError, match="ended after 10 frames of 11"):
        kpageflags.read_kpageflags(path, at_least=11)


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path):
    for read in (FreeMap.from_kpageflags, FreeMap.from_buddyinfo):
        with pytest.raises(HostError, match=r"run as root, or give a saved map \(--host FILE\)"):
            read(tmp_path / "nothing")


def test_a_gap_to_memfree_is_told_with_both_figures_only_beyond_two_percent():
    assert kpageflags.memfree_notes(990, 1000 * FRAME_BYTES) == ()
    (note,) = kpageflags.memfree_notes(1 << 18, 5 << 30)
    assert note.startswith("MemFree is 5GiB, the buddy lists hold 1GiB: 4GiB is not initialised")
    (note,) = kpageflags.memfree_notes(1 << 18, 1 << 20)
    assert "while the lists were read" in note


@pytest.mark.parametrize("packing", buddyinfo.PACKINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_block_count_of_buddyinfo_is_kept_below_the_top_order(tmp_path, layout, packing):
    path = tmp_path / "buddyinfo"
    path.write_text(layout)
    counts = np.array([line.split()[4:] for line in layout.splitlines()], dtype=int).sum(axis=0).tolist()
    free = FreeMap.from_buddyinfo(path, packing=packing)
    blocks, top = free.free_blocks(), len(counts) - 1
    assert [blocks.get(order, 0) for order in range(top)] == counts[:-1]
    assert sum(count << order - top for order, count in blocks.items() if order >= top) == counts[-1]
    assert not free.exact
    assert str(counts[-1]) in free.assumption
    assert free.counted_order == top


def test_packing_decides_whether_top_blocks_form_larger_ones(tmp_path):
    path = tmp_path / "buddyinfo"
    path.write_text(DESKTOP)
    contiguous = FreeMap.from_buddyinfo(path, packing="contiguous", size="25GiB")
    scattered = FreeMap.from_buddyinfo(path, packing="scattered", size="25GiB")
    assert contiguous.machine_frames == scattered.machine_frames == 25 << 18
    assert max(contiguous.free_blocks()) == 19  # 993 blocks of 4 MiB: 3.88 GiB, so one of 2 GiB and one of 1 GiB
    assert max(scattered.free_blocks()) == 10
    for free in (contiguous, scattered):
        assert free.bounds(18) == (0, 2), "the 752 blocks of one zone, not the 993 of three"
        assert free.bounds(10) == (993, 993)


def test_scattered_blocks_adjoin_only_where_used_memory_is_too_scarce(tmp_path):
    path = tmp_path / "buddyinfo"
    path.write_text("Node 0, zone Normal " + "0 " * 10 + "6\n")
    free = FreeMap.from_buddyinfo(path, packing="scattered", size="32MiB")
    assert free.machine_frames == 8 << 10
    assert free.free_blocks() == {10: 2, 11: 2}  # 2 used blocks of 8 keep 2 of the 6 apart


@given(blocks=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any), size=st.integers(0, 1 << 14))
def test_any_counts_are_kept_in_a_machine_of_any_size(blocks, size):
    counts = BuddyCounts(tuple(blocks))
    for packing in buddyinfo.PACKINGS:
        runs = buddyinfo.place_counts(counts, size, packing)
        free = FreeMap(*runs, "buddyinfo")
        found = free.free_blocks(max_order=counts.top_order)
        assert [found.get(order, 0) for order in range(len(blocks))] == blocks
        assert free.machine_frames >= size


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("Node 0, zone Normal 0 0 0\n", "counts 0 free frames"),
        ("Node 0, zone Normal 1 2\nNode 1, zone Normal 1 2 3\n", "different lengths"),
        ("Node 0, zone Normal 1 x 3\n", "is no zone"),
        ("MemFree: 12 kB\n", "is no zone"),
        ("Node 0, zone Normal" + " 1" * 22 + "\n", "has 22 orders"),
        ("Node 0, zone Normal " + "9" * 5000 + "\n", "free frames, which no host has"),
    ],
)
def test_a_broken_buddyinfo_is_an_error(tmp_path, text, problem):
    path = tmp_path / "buddyinfo"
    path.write_text(text)
    with pytest.raises(HostError, match=problem):
        FreeMap.from_buddyinfo(path)


def test_an_unknown_packing_names_the_known_ones(tmp_path):
    (tmp_path / "buddyinfo").write_text(DESKTOP)
    with pytest.raises(UnknownNameError, match="contiguous, scattered"):
        FreeMap.from_buddyinfo(tmp_path / "buddyinfo", packing="tight")
    with pytest.raises(UnknownNameError, match="contiguous, scattered"):
        FreeMap.this_host(packing="tight")


def test_the_machine_ends_with_its_highest_zone_device_memory_left_out(tmp_path):
    zone = "Node 0, zone {:>8}\n  pages free 1\n        spanned  {}\n        present 1\n  start_pfn:  {}\n"
    path = tmp_path / "zoneinfo"
    path.write_text(zone.format("DMA", 4095, 1) + zone.format("Normal", 1000, 8192) + zone.format("Movable", 0, 0))
    assert buddyinfo.read_span(path) == 9192
    path.write_text(path.read_text() + zone.format("Device", 99999, 1 << 30))
    assert buddyinfo.read_span(path) == 9192
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       4096 kB\n")
    assert buddyinfo.read_machine_frames(tmp_path / "nothing", meminfo) == 1024
    with pytest.raises(HostError, match="no line MemFree"):
        buddyinfo.read_meminfo("MemFree", meminfo)


@pytest.mark.medium
@pytest.mark.skipif(not os.access(kpageflags.KPAGEFLAGS, os.R_OK), reason="/proc/kpageflags needs root")
def test_the_live_exact_map_agrees_with_the_kernels_own_counts():
    # Other programs take and free memory between the two reads: the best of a few tries counts.
    gaps = []
    for _ in range(5):
        before = buddyinfo.read_buddyinfo().free_frames
        free = FreeMap.this_host()
        gaps.append(abs(free.free_frames - before) / before)
        if gaps[-1] < 0.02:
            break
    assert free.exact
    assert min(gaps) < 0.02


@pytest.mark.skipif(not os.access(buddyinfo.BUDDYINFO, os.R_OK), reason="/proc/buddyinfo cannot be read here")
def test_without_kpageflags_this_host_falls_back_to_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(kpageflags, "KPAGEFLAGS", tmp_path / "nothing")
    free = FreeMap.this_host()
    assert (free.source, free.exact) == ("buddyinfo", False)
    assert free.free_frames > 0


def test_a_kpageflags_that_contradicts_itself_is_told_and_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(kpageflags, "KPAGEFLAGS", write_words(tmp_path / "kpageflags", [FREE] * 10))
    with pytest.raises(HostError, match="ended after 10 frames"):
        FreeMap.this_host()
