"""Frame table, M2P and the hardware that joins them."""

import numpy as np
import pytest

from twofold.errors import AddressError
from twofold.freemaps import FreeMap
from twofold.machine import M2P, FrameTable, Hardware, Unmapped, Use
from twofold.units import INVALID_GFN


def runs(*pairs):
    table = np.array(pairs, np.uint64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def test_frames_belong_to_nobody_until_they_are_assigned(engine):
    table = FrameTable(100, engine)
    assert table.holds(*runs((0, 100)), 0, Use.NONE)
    table.assign(*runs((10, 5), (50, 1)), 3, Use.RAM)
    assert table.holds(*runs((10, 5), (50, 1)), 3, Use.RAM)
    assert not table.holds(*runs((10, 6)), 3, Use.RAM)
    assert not table.holds(*runs((10, 5)), 4, Use.RAM)
    assert not table.holds(*runs((10, 5)), 3, Use.TABLES)
    table.release(*runs((12, 2)))
    assert np.flatnonzero(table.owner).tolist() == [10, 11, 14, 50]
    assert np.flatnonzero(table.use).tolist() == [10, 11, 14, 50]


def test_nobody_holds_what_lies_beyond_the_machine(engine):
    """A leaf of MMIO_DIRECT maps such frames."""
    table = FrameTable(100, engine)
    assert not table.holds(*runs((1 << 39, 1)), 0, Use.NONE)
    assert not table.holds(*runs((99, 2)), 0, Use.NONE)
    assert table.holds(*runs((99, 1)), 0, Use.NONE)


def test_the_m2p_names_the_gfn_of_each_frame(engine):
    m2p = M2P(64, engine)
    assert len(m2p) == 64
    assert {m2p[mfn] for mfn in range(64)} == {INVALID_GFN}
    mfns, frames = runs((8, 4), (20, 1))
    m2p.set_runs(mfns, np.array([0, 1 << 35], np.uint64), frames)
    assert [m2p[mfn] for mfn in (7, 8, 11, 12, 20)] == [INVALID_GFN, 0, 3, INVALID_GFN, 1 << 35]
    m2p.clear_runs(*runs((9, 2)))
    assert [m2p[mfn] for mfn in (8, 9, 10, 11)] == [0, INVALID_GFN, INVALID_GFN, 3]


@pytest.mark.parametrize("mfn", [-1, 64])
def test_the_m2p_ends_with_the_machine(engine, mfn):
    with pytest.raises(AddressError, match="beyond the machine"):
        M2P(64, engine)[mfn]


def test_what_is_given_back_is_free_belongs_to_nobody_and_reads_as_zero(engine):
    hardware = Hardware(FreeMap.empty_machine("1MiB"), engine)
    mfns, extents = hardware.heap.alloc_runs(4, 3)
    frames = extents << np.uint64(4)
    hardware.ledger.take(mfns, frames, 7, Use.RAM)
    assert hardware.frame_table.holds(mfns, frames, 7, Use.RAM)
    hardware.arena.tables[int(mfns[0])] = 1
    hardware.ledger.release(Unmapped.never_mapped(mfns, frames), 7)
    assert not hardware.frame_table.owner.any()
    assert not hardware.frame_table.use.any()
    assert not hardware.arena.tables[int(mfns[0])].any()
    assert hardware.heap.free_blocks() == {8: 1}
    hardware.close()
