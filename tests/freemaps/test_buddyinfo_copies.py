"""Copies of /proc/buddyinfo from other hosts: pages of any size, zones that are kept apart, and damaged files."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_free_map_files import META, file_of, write

from twofold.errors import FormatError, FreeMapError, HostError, SizeError, TwofoldError, UnknownNameError
from twofold.freemaps import FreeMap, buddyinfo, kpageflags
from twofold.freemaps.map_file import encode_varints

GIB = 1 << 18  # frames
OF_64K = "Node 2, zone      DMA 61 1 1 0 0 1 0 0 0 0 0 0 0 0 0 0 0\nNode 3, zone   Normal 57 6" + " 0" * 15 + "\n"
TWO_NODES = "".join(f"Node {node}, zone   Normal {'0 ' * 10}255\n" for node in range(2))
GOOD = "Node 0, zone      DMA 1 0 2\nNode 0, zone   Normal 3 4 5\nNode 1, zone   Normal 3 4 5\n"


def of_zones(rows: list[list[int]]) -> str:
    return "".join(f"Node {node}, zone {'Normal':>8} {' '.join(map(str, row))} \n" for node, row in enumerate(rows))


def test_counts_are_of_pages_of_the_size_that_is_given(tmp_path):
    path = write(tmp_path / "copy", OF_64K.encode())
    for page_kib in (4, 8, 16, 32, np.int64(64)):
        free = FreeMap.from_buddyinfo(path, page_kib=page_kib)
        assert free.free_frames * 4 == 168 * page_kib
        assert free.free_blocks() == {
            order + (int(page_kib) // 4).bit_length() - 1: count for order, count in {0: 118, 1: 7, 2: 1, 5: 1}.items()
        }
        assert free.notes == (f"blocks are counted in pages of {page_kib}KiB, as was given",)


def test_the_number_of_columns_says_nothing_of_the_size_of_a_page(tmp_path):
    for columns in (5, 9, 11, 13, 14, 17):
        path = write(tmp_path / "copy", of_zones([[3] * columns]).encode())
        free = FreeMap.from_buddyinfo(path)
        assert free.free_frames == 3 * (2**columns - 1)
        assert free.counted_order == columns - 1
        assert "pages of 4KiB, as no other size was given" in free.notes[0]
        arm = FreeMap.from_buddyinfo(path, page_kib=16)
        assert (arm.free_frames, arm.counted_order) == (4 * free.free_frames, columns + 1)


@pytest.mark.parametrize("page_kib", [0, -4, 1, 2, 3, 12, 48, 512, 1 << 40, 64.5, 4.5, True, "64", "64KiB"])
def test_a_page_that_no_kernel_has_is_refused(tmp_path, page_kib):
    path = write(tmp_path / "copy", OF_64K.encode())
    for read in (FreeMap.from_buddyinfo, FreeMap.from_file, FreeMap.from_kpageflags):
        with pytest.raises(SizeError, match=r"is no kernel's page: a power of two from 4 to 256 \[KiB\]"):
            read(path, page_kib=page_kib)


def test_more_than_the_largest_block_is_refused_with_the_size_of_the_page(tmp_path):
    path = write(tmp_path / "copy", OF_64K.encode())
    with pytest.raises(HostError, match="has 17 orders of pages of 128KiB; the largest block that is known is 4GiB"):
        FreeMap.from_buddyinfo(path, page_kib=128)


# -- this host is asked ----------------------------------------------------------------------------------------------


@pytest.fixture
def arm_host(monkeypatch, tmp_path):
    """Let this host be one with pages of 64 KiB; return the folder of its /proc."""
    zone = "Node 0, zone   Normal\n        spanned  16384\n  start_pfn:           0\n"
    (tmp_path / "buddyinfo").write_text(of_zones([[5, 0, 1, 2]]))
    (tmp_path / "zoneinfo").write_text(zone)
    (tmp_path / "meminfo").write_text(f"MemTotal: {1 << 20} kB\nMemFree: {3 * 64} kB\n")
    words = np.zeros(16384, "<u8")
    words[[7, 8, 100]] = 1 << 10
    (tmp_path / "kpageflags").write_bytes(words.tobytes())
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 65536}.__getitem__)
    for module, name in ((buddyinfo, "BUDDYINFO"), (buddyinfo, "ZONEINFO"), (buddyinfo, "MEMINFO")):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
    monkeypatch.setattr(kpageflags, "KPAGEFLAGS", tmp_path / "kpageflags")
    return tmp_path


def test_this_host_is_asked_how_large_its_pages_are(arm_host):
    exact = FreeMap.this_host()
    assert (exact.source, exact.machine_frames) == ("kpageflags", GIB)
    assert exact.free_blocks() == {4: 3}
    assert (exact.starts.tolist(), exact.frames.tolist()) == ([112, 1600], [32, 16])
    (arm_host / "kpageflags").unlink()
    counted = FreeMap.this_host()
    assert (counted.source, counted.machine_frames, counted.notes) == ("buddyinfo", GIB, ())
    assert counted.free_frames == (5 + 4 + 16) * 16
    for read in (FreeMap.from_file, FreeMap.from_buddyinfo):
        assert read(arm_host / "buddyinfo").free_frames == counted.free_frames


def test_of_this_host_no_other_page_is_believed(arm_host):
    live = arm_host / "buddyinfo"
    assert FreeMap.from_buddyinfo(live, page_kib=64) == FreeMap.from_buddyinfo(live)
    with pytest.raises(HostError, match="counts in this host's pages of 64KiB, not of 4KiB"):
        FreeMap.from_buddyinfo(live, page_kib=4)
    with pytest.raises(HostError, match="not of 16KiB"):
        FreeMap.from_file(arm_host / "buddyinfo", page_kib=16)


def test_kpageflags_of_another_host_has_a_word_a_page(tmp_path):
    words = np.array([0, 1 << 10, 1 << 10, 0], "<u8")
    free = FreeMap.from_kpageflags(write(tmp_path / "flags", words.tobytes()), page_kib=16)
    assert (free.starts.tolist(), free.frames.tolist(), free.machine_frames) == ([4], [8], 16)


# -- nodes and zones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", buddyinfo.PACKINGS)
def test_no_extent_lies_on_two_nodes(tmp_path, packing):
    path = write(tmp_path / "copy", TWO_NODES.encode())
    free = FreeMap.from_buddyinfo(path, packing=packing)
    assert free.bounds(18) == (0, 0)
    assert free.bounds(17) == (0, 2)
    assert free.bounds(10) == (510, 510)
    assert max(free.free_blocks()) == {"contiguous": 17, "scattered": 10}[packing]
    joined = FreeMap.from_buddyinfo(write(path, of_zones([[0] * 10 + [510]]).encode()), packing=packing)
    assert joined.bounds(18) == (0, 1)


def test_zones_of_one_node_are_kept_apart_too(tmp_path):
    text = f"Node 0, zone DMA32 {'0 ' * 10}200\nNode 0, zone Normal {'0 ' * 10}56\n"
    assert FreeMap.from_buddyinfo(write(tmp_path / "copy", text.encode())).bounds(18) == (0, 0)


def test_where_a_machine_is_too_full_to_keep_zones_apart_a_larger_one_is_taken(tmp_path):
    path = write(tmp_path / "copy", of_zones([[0] * 10 + [3], [0] * 10 + [3]]).encode())
    for packing in buddyinfo.PACKINGS:
        free = FreeMap.from_buddyinfo(path, packing=packing, size="24MiB")
        assert free.free_frames == 6 << 10
        assert free.bounds(11) == (0, 2)
        assert free.free_blocks().get(11, 0) <= 2
        assert 12 not in free.free_blocks()
        assert free.machine_frames > 6 << 10


ROWS = st.integers(1, 9).flatmap(
    lambda columns: st.lists(
        st.lists(st.integers(0, 70), min_size=columns, max_size=columns), min_size=1, max_size=5
    ).filter(lambda rows: any(map(any, rows)))
)


@given(
    rows=ROWS,
    page_kib=st.sampled_from([4, 16, 64]),
    packing=st.sampled_from(buddyinfo.PACKINGS),
    size=st.integers(0, 999),
)
def test_counts_are_kept_and_what_is_larger_is_bounded_zone_by_zone(tmp_path_factory, rows, page_kib, packing, size):
    path = write(tmp_path_factory.mktemp("copy") / "copy", of_zones(rows).encode())
    free = FreeMap.from_buddyinfo(path, page_kib=page_kib, packing=packing, size=size << 20)
    small = (page_kib // 4).bit_length() - 1
    top = small + len(rows[0]) - 1
    blocks = free.free_blocks()
    for order in range(top):
        assert blocks.get(order, 0) == (sum(row[order - small] for row in rows) if order >= small else 0)
    for order in range(top, 21):
        most = sum(row[-1] >> order - top for row in rows)
        placed = sum(count << larger - order for larger, count in blocks.items() if larger >= order)
        assert placed == most if packing == "contiguous" or order == top else placed <= most
        assert free.bounds(order) == ((most, most) if order == top else (0, most))
    free.save(path)
    again = FreeMap.load(path)
    assert again == free == FreeMap.from_file(path)
    assert again.bounds(min(20, top + 3)) == free.bounds(min(20, top + 3))


def test_a_saved_map_of_one_zone_is_the_bytes_that_it_was(tmp_path):
    free = FreeMap.from_buddyinfo(write(tmp_path / "copy", of_zones([[3, 4, 5]]).encode()))
    assert free.zone_blocks == ()
    assert b"zone_blocks" not in json.dumps(free._scalars()).encode()


@pytest.mark.parametrize("zones", [[1], [3, 3], [-1, 3], [2.0], ["2"], [True, True], 2, {"a": 2}, [[2]], [1 << 80]])
def test_zones_that_are_not_those_of_the_map_are_refused(tmp_path, zones):
    meta = META | {"exact": False, "assumption": "made up", "counted_order": 0}
    for given_, is_right in ((zones, False), ([1, 1], True)):
        packed = json.dumps(meta | {"zone_blocks": given_}).encode()
        path = write(tmp_path / "map", file_of(packed + encode_varints(np.array([3, 2], np.uint64)), len(packed), 1))
        if is_right:
            assert FreeMap.load(path).bounds(1) == (0, 0)
        else:
            with pytest.raises(FormatError, match="is no saved free map"):
                FreeMap.load(path)


def test_an_exact_map_has_no_zones():
    with pytest.raises(FreeMapError, match="zone_blocks"):
        replace(FreeMap.empty_machine("1MiB"), zone_blocks=(1,))


# -- files that are told apart, or wrong -----------------------------------------------------------------------------


def test_a_file_is_told_by_what_it_holds(tmp_path):
    copy = write(tmp_path / "wrong.twohost", GOOD.encode())
    assert FreeMap.from_file(copy) == FreeMap.from_buddyinfo(copy)
    assert FreeMap.from_file(str(copy), page_kib=64, packing="scattered") == FreeMap.from_buddyinfo(
        copy, page_kib=64, packing="scattered"
    )
    saved = FreeMap.synthetic("1MiB")
    saved.save(tmp_path / "buddyinfo.txt")
    assert FreeMap.from_file(tmp_path / "buddyinfo.txt") == saved
    with pytest.raises(FormatError, match="is a saved map, in 4 KiB frames"):
        FreeMap.from_file(tmp_path / "buddyinfo.txt", page_kib=4)
    with pytest.raises(
        FormatError, match=r"is no saved free map but a copy of /proc/buddyinfo: FreeMap\.from_file reads"
    ):
        FreeMap.load(copy)
    with pytest.raises(UnknownNameError, match="packing"):
        FreeMap.from_file(copy, packing="loose")


@pytest.mark.parametrize("ending", ["\r\n", "\r", " \n", "\n\n", "   \r\n"])
def test_line_ends_of_any_system_are_read(tmp_path, ending):
    path = write(tmp_path / "copy", GOOD.replace("\n", ending).encode())
    for read in (FreeMap.from_file, FreeMap.from_buddyinfo):
        assert read(path).free_frames == FreeMap.from_file(write(tmp_path / "plain", GOOD.encode())).free_frames


WRONG = {
    "cut in a line": (GOOD[:-5], "lines of different lengths: line 3 has 1 orders, those before it 3"),
    "cut in the last number": (
        GOOD.replace("5\n", "57\n")[:-2],
        "ends inside its last line, whose last count may be cut off",
    ),
    "cut in the only line": ("Node 0, zone Normal 1 2 3 4", "ends inside its last line"),
    "cut before a count": (GOOD[: GOOD.rindex(" 3 4 5")], "line 3 is no zone"),
    "a zone twice": (GOOD + GOOD, "line 4 counts node 0, zone 'DMA' again, as line 1 did"),
    "a shell's prompt": ("$ cat /proc/buddyinfo\n" + GOOD, "line 1 is no zone"),
    "another kind of line": (GOOD.replace("zone      DMA", "zone DMA, type Movable"), "line 1 is no zone"),
    "a negative count": (GOOD.replace("4", "-4"), "line 2 is no zone"),
    "a count that is no number": (GOOD.replace("4", "4x"), "line 2 is no zone"),
    "a digit of another script": (GOOD.replace("4", "\u0664"), "line 2 is no zone"),
    "two hosts": (GOOD + "Node 2, zone Normal 1 2 3 4\n", "lines of different lengths: line 4 has 4 orders"),
    "a huge count": (GOOD.replace("5", "9" * 40), "free frames, which no host has"),
    "a count beyond any machine": (GOOD.replace("5", str(1 << 39)), "free frames, which no host has"),
    "nothing free": ("Node 0, zone DMA 0 0 0\n", "counts 0 free frames"),
    "too many orders": (of_zones([[1] * 22]), "has 22 orders of pages of 4KiB"),
    "control letters": (GOOD.replace("DMA", "\x1b[31m"), ""),
    "a colour in a line": (GOOD.replace("4 5", "\x1b[31m 4"), "line 2 is no zone"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_damaged_copy_is_one_clear_line(tmp_path, what):
    text, problem = WRONG[what]
    path = write(tmp_path / "copy", text.encode())
    for read in (FreeMap.from_file, FreeMap.from_buddyinfo):
        if not problem:
            assert read(path).free_frames
            continue
        with pytest.raises(HostError, match=problem) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        assert len(message) < len(str(path)) + 200


@pytest.mark.parametrize("content", [b"", b"\n", b"TWOHOS", GOOD.encode("utf-16"), b"MemFree: 12 kB\n", b"\0" * 99])
def test_a_file_that_is_neither_says_so(tmp_path, content):
    with pytest.raises(FormatError, match="is neither a saved free map nor a copy of /proc/buddyinfo"):
        FreeMap.from_file(write(tmp_path / "copy", content))


@given(cut=st.integers(0, len(GOOD) - 1))
def test_a_copy_that_is_cut_anywhere_is_refused_or_whole_lines(tmp_path_factory, cut):
    path = write(tmp_path_factory.mktemp("copy") / "copy", GOOD[:cut].encode())
    if GOOD[:cut].endswith("\n"):
        assert FreeMap.from_file(path).free_frames
        return
    with pytest.raises(TwofoldError):
        FreeMap.from_file(path)


@given(position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_an_error_of_ours_or_another_count(tmp_path_factory, position, byte):
    damaged = GOOD.encode()[:position] + bytes([byte]) + GOOD.encode()[position + 1 :]
    path = write(tmp_path_factory.mktemp("copy") / "copy", damaged)
    try:
        free = FreeMap.from_file(path)
    except TwofoldError as error:
        problem = str(error)
    else:
        problem = ""
        assert free.free_frames
    assert problem.isprintable()


def test_a_device_without_an_end_and_a_name_that_cannot_be_are_refused():
    for read in (FreeMap.from_file, FreeMap.from_buddyinfo):
        with pytest.raises(TwofoldError, match="is no regular file"):
            read("/dev/zero")
        with pytest.raises(TwofoldError, match="cannot be read"):
            read("a\0b")
