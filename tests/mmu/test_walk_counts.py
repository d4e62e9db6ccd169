"""Reads of a cold walk in every pair of formats: g (h + 1) + h, with g and h the levels down to either leaf."""

from dataclasses import replace

import numpy as np
import pytest
from tables import leaf_levels, one_page

from twofold.formats import shape
from twofold.kernels import mmu as kernels
from twofold.mmu import Mmu, load_profile
from twofold.mmu.profile import PaeRoot
from twofold.spec import mmu as plain

# (guest, P2M): by leaf size of the guest, the reads by leaf size of the P2M, both from 4K up.
COUNTS = {
    ("4-level", "npt"): ((24, 19, 14), (19, 15, 11), (14, 11, 8)),
    ("5-level", "npt-5"): ((35, 29, 23), (29, 24, 19), (23, 19, 15)),
    ("4-level", "npt-5"): ((29, 24, 19), (23, 19, 15), (17, 14, 11)),
    ("5-level", "npt"): ((29, 23, 17), (24, 19, 14), (19, 15, 11)),
    ("4-level", "ept"): ((24, 19, 14), (19, 15, 11), (14, 11, 8)),
    ("4-level", "ept-5"): ((29, 24, 19), (23, 19, 15), (17, 14, 11)),
    ("2-level", "npt"): ((14, 11, 8), (9, 7, 5)),
    ("4-level", "npt-pae"): ((19, 14), (15, 11), (11, 8)),
    ("pae", "npt-pae"): ((15, 11), (11, 8)),
    ("2-level", "npt-pae"): ((11, 8), (7, 5)),
    ("2-level", "npt-2"): ((8, 5), (5, 3)),
}
CASES = [
    (guest, p2m, guest_level, host_level, reads)
    for (guest, p2m), rows in COUNTS.items()
    for guest_level, row in enumerate(rows)
    for host_level, reads in enumerate(row)
]


@pytest.mark.parametrize("engine", [kernels, plain], ids=["kernels", "spec"])
@pytest.mark.parametrize(("guest", "p2m", "guest_level", "host_level", "reads"), CASES)
def test_a_cold_walk_reads_as_many_entries_as_published(guest, p2m, guest_level, host_level, reads, engine):
    tables = one_page(guest_level, host_level, guest, p2m)
    mmu = Mmu(load_profile("none"), tables.memory, tables.guest_root, tables.p2m_root, engine, tables.shapes)
    stats = mmu.run(np.array([0x123], np.uint64))
    g, h = (int(form[shape.LEVELS]) for form in tables.shapes)
    g, h = g - guest_level, h - host_level
    assert stats.reads == reads == g * (h + 1) + h
    assert sum(stats.guest_reads) == g


@pytest.mark.parametrize("p2m", ["npt", "npt-5", "ept", "npt-pae", "npt-2"])
def test_a_walk_of_one_dimension_reads_the_levels_down_to_the_leaf(p2m):
    for level in (0, 1):
        tables = one_page(0, level, "2-level", p2m)
        form = tables.format.shape
        mmu = Mmu(load_profile("none"), tables.memory, tables.p2m_root, None, kernels, (form, form))
        assert level in leaf_levels(form)
        assert mmu.run(np.zeros(1, np.uint64)).reads == int(form[shape.LEVELS]) - level


@pytest.mark.parametrize(("guest_level", "reads"), [(0, (14, 11, 8)), (1, (9, 7, 5))])
def test_root_entries_that_cr3_loads_are_not_read_by_walks(guest_level, reads):
    profile = replace(load_profile("none"), pae_root=PaeRoot("load", "Intel SDM vol. 3, 'PAE Paging'", "high"))
    for host_level, count in enumerate(reads):
        tables = one_page(guest_level, host_level, "pae", "ept")
        mmu = Mmu(profile, tables.memory, tables.guest_root, tables.p2m_root, kernels, tables.shapes)
        assert mmu.run(np.zeros(1, np.uint64)).reads == count
