"""Pictures of memory: the curve, and cells that agree with the P2M and with the free map."""

import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, build
from twofold.freemaps import FreeMap
from twofold.study.pictures import LARGE, MIDDLE, NOTHING, SIDE_BITS, SMALL, free_picture, hilbert, p2m_picture
from twofold.units import INVALID_MFN

SIDE = 1 << SIDE_BITS


@pytest.mark.parametrize("bits", [0, 1, 2, 5, SIDE_BITS])
def test_the_curve_visits_each_cell_once_and_steps_to_a_neighbour(bits):
    x, y = hilbert(bits)
    cells = set(zip(x.tolist(), y.tolist(), strict=True))
    assert len(cells) == len(x) == 4**bits
    assert all(0 <= a < 1 << bits and 0 <= b < 1 << bits for a, b in cells)
    assert np.all(np.abs(np.diff(x)) + np.abs(np.diff(y)) == 1)


def test_the_curve_keeps_an_aligned_quarter_together():
    x, y = hilbert(SIDE_BITS)
    quarter = SIDE * SIDE // 4
    for start in range(0, SIDE * SIDE, quarter):
        part = slice(start, start + quarter)
        assert np.ptp(x[part]) == np.ptp(y[part]) == SIDE // 2 - 1


def cells_along(picture):
    x, y = hilbert(SIDE_BITS)
    return picture[y, x]


@pytest.mark.parametrize(
    ("memory", "layout", "design"),
    [
        ("1GiB", "pvh", "toolstack"),
        ("5GiB", "hvm", "opportunistic"),
        ("48MiB", "hvm", "small"),
        ("8MiB", "flat", "small"),
    ],
)
def test_a_cell_shows_the_leaf_at_its_middle(memory, layout, design):
    with Machine(free=FreeMap.synthetic("12GiB", 0.8, 0.3, seed=1)) as machine:
        domain = machine.create_domain(memory, options=DomainOptions(layout=layout))
        build(domain, design)
        cells = cells_along(p2m_picture(domain))
        codes = {0: SMALL, 9: MIDDLE, 18: LARGE}
        end = domain.layout.ram(domain.frames)[-1].end
        for cell in range(0, SIDE * SIDE, 37):
            entry = domain.p2m.get_entry((2 * cell + 1) * end // (2 * SIDE * SIDE))
            assert cells[cell] == (NOTHING if entry.mfn == INVALID_MFN else codes[entry.order])
        if design != "small":
            assert LARGE in cells


@pytest.mark.parametrize(
    "free", [FreeMap.synthetic("4GiB", 0.5, 0.4, seed=2), FreeMap.synthetic("8MiB", 0.5, 0.8, seed=1)]
)
def test_a_cell_shows_the_largest_free_block_that_it_holds_a_part_of(free):
    cells, count = cells_along(free_picture(free)), SIDE * SIDE
    expected = np.zeros(count, np.uint8)
    for mfn, order in zip(*(column.tolist() for column in free.decompose()), strict=True):
        first = mfn * count // free.machine_frames
        end = -(-(mfn + (1 << order)) * count // free.machine_frames)
        kind = LARGE if order >= 18 else MIDDLE if order >= 9 else SMALL
        expected[first:end] = np.maximum(expected[first:end], kind)
    np.testing.assert_array_equal(cells, expected)


def test_an_empty_machine_is_one_patch_and_a_full_one_nothing():
    assert np.all(free_picture(FreeMap.empty_machine("2GiB")) == LARGE)
    assert np.all(free_picture(FreeMap.empty_machine("4MiB")) == MIDDLE)
    assert not free_picture(FreeMap.synthetic("2GiB", free_share=0)).any()
