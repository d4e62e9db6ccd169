"""The arena: real bytes, sparse, shared by file descriptor."""

import mmap
import os

import numpy as np
import pytest

from twofold.errors import AddressError
from twofold.machine import Arena


@pytest.fixture
def arena():
    made = Arena(1024)
    yield made
    made.close()


def test_bytes_and_tables_are_the_same_memory(arena):
    arena.write(5 * 4096 + 16, (0x1122334455667788).to_bytes(8, "little"))
    assert arena.tables[5, 2] == 0x1122334455667788
    arena.tables[5, 3] = 0xFFEE
    assert arena.read(5 * 4096 + 24, 8) == b"\xee\xff" + bytes(6)


def test_another_mapping_of_the_file_sees_the_same_bytes(arena):
    with mmap.mmap(arena.fd, 1024 * 4096) as other:
        arena.write(4096, b"seen")
        assert other[4096:4100] == b"seen"
        other[8192:8195] = b"too"
    assert arena.read(8192, 3) == b"too"


@pytest.mark.parametrize(("maddr", "bytes_"), [(-1, 1), (1024 * 4096, 1), (1024 * 4096 - 3, 4)])
def test_nothing_reaches_beyond_the_machine(arena, maddr, bytes_):
    with pytest.raises(AddressError):
        arena.read(maddr, bytes_)
    with pytest.raises(AddressError):
        arena.write(maddr, bytes(bytes_))


def test_only_what_was_touched_exists(arena):
    assert list(arena.data_runs()) == []
    for mfn in (3, 4, 5, 100, 1023):
        arena.tables[mfn, 0] = 1
    assert list(arena.data_runs()) == [(3, 3), (100, 1), (1023, 1)]
    assert list(arena.data_runs(4, 97)) == [(4, 2), (100, 1)]
    assert list(arena.data_runs(6, 94)) == []


def runs(*pairs):
    table = np.array(pairs, np.uint64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def test_discarded_frames_read_as_zero_and_the_others_stay(arena):
    arena.tables[:64] = np.arange(64 * 512, dtype=np.uint64).reshape(64, 512) + np.uint64(1)
    before = arena.tables[:64].copy()
    arena.discard(*runs((40, 8), (10, 5), (60, 100), (15, 1), (500, 4)))
    gone = {*range(10, 16), *range(40, 48), *range(60, 64)}
    for mfn in range(64):
        assert np.array_equal(arena.tables[mfn], np.zeros(512) if mfn in gone else before[mfn])
    assert list(arena.data_runs(0, 10)) == [(0, 10)]


def test_discarding_nothing_is_allowed(arena):
    arena.tables[0, 0] = 7
    arena.discard(*runs())
    assert arena.tables[0, 0] == 7


def test_discarding_gives_the_pages_back_to_the_host(arena):
    arena.tables[:512, 0] = 1
    used = os.fstat(arena.fd).st_blocks
    arena.discard(*runs((0, 512)))
    assert os.fstat(arena.fd).st_blocks == used - 512 * 8


def test_a_machine_of_1_tib_costs_only_what_it_touches():
    arena = Arena(1 << 28)
    arena.tables[(1 << 28) - 1, 511] = 5
    assert os.fstat(arena.fd).st_blocks * 512 == 4096
    assert list(arena.data_runs()) == [((1 << 28) - 1, 1)]
    arena.close()


def test_a_closed_arena_has_no_tables_left():
    arena = Arena(4)
    arena.close()
    assert arena.tables.shape == (0, 512)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena.fd)


def test_closing_waits_for_a_view_that_a_caller_still_holds():
    arena = Arena(4)
    view = arena.tables
    view[2, 2] = 9
    arena.close()
    assert view[2, 2] == 9
