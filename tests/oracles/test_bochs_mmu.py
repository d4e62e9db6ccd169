"""Cold walks of the MMU model read what Bochs's walker reads: the same entries of guest tables and EPT, in order.

The model says of each walk how many entries of each table level it read, and keeps the lines of page-table entries by
recency; Bochs says every address. So counts are compared, and the lines, each where it was read last.
Bochs, as the manual says, reads the root entries of PAE tables when CR3 is loaded.
"""

from dataclasses import replace

import bochs_cpu
import bochs_ept
import numpy as np
import pytest

from twofold.domain import DomainOptions, Machine, build
from twofold.formats import mmu_state as at
from twofold.guest import Guest
from twofold.kernels import mmu as kernels
from twofold.mmu import Mmu, load_profile
from twofold.mmu.profile import PaeRoot, Structure
from twofold.spec import mmu as plain
from twofold.units import FRAME_SHIFT

GUESTS = [("4-level", "4K"), ("4-level", "2M"), ("pae", "4K"), ("pae", "2M"), ("2-level", "4K"), ("2-level", "4M")]
LINE_SHIFT, PROBES = 6, 40
KEEP_ALL = Structure("a test", "high", 64, 64)


@pytest.fixture(scope="module", autouse=True)
def _oracle():
    bochs_cpu.require()


def cold_profile():
    """Return a CPU without caches, but for all lines of one walk."""
    return replace(load_profile("none"), l2_lines=KEEP_ALL, pae_root=PaeRoot("load", "a test", "high"))


def model_walk(memory, guest, gva, engine):
    """Return (entries read, lines by their last read) of one cold walk in the model."""
    p2m = guest.domain.p2m
    shapes = guest.tables.shape, p2m.format.shape
    mmu = Mmu(cold_profile(), memory, guest.tables.root, p2m.root, engine, shapes)
    stats = mmu.run(np.array([gva], np.uint64))
    lines = [int(tag) >> at.PAGE_SHIFT for tag in mmu._tags if tag and int(tag) & 31 == at.L2_LINES + 1]
    return stats.reads, lines[::-1]


def last_reads(maddrs):
    """Return the lines of some addresses, each where it stands last."""
    lines = [maddr >> LINE_SHIFT for maddr in maddrs]
    return [line for place, line in enumerate(lines) if line not in lines[place + 1 :]]


@pytest.mark.parametrize(("mode", "page_sizes"), GUESTS)
@pytest.mark.parametrize("design", ["small", "toolstack"])
@pytest.mark.parametrize("engine", [kernels, plain], ids=["kernels", "spec"])
def test_a_cold_walk_reads_the_entries_that_bochs_reads(mode, page_sizes, design, engine):
    with Machine("128MiB") as machine:
        domain = machine.create_domain("64MiB", options=DomainOptions(table_format="ept"))
        build(domain, design)
        guest = Guest(domain, mode, page_sizes=page_sizes, footprint="16MiB")
        rng = np.random.default_rng(1)
        pages = rng.integers(0, guest.footprint >> FRAME_SHIFT, PROBES)
        gvas = [guest.area_base + (int(page) << FRAME_SHIFT) for page in pages]
        memory = machine.arena.tables.copy()
        bochs_cpu.fill(memory, sorted({guest.walk(gva)[2] >> FRAME_SHIFT for gva in gvas}))
        root = guest.tables.root << FRAME_SHIFT
        walks = bochs_ept.reads_of_nested(memory.copy(), domain.p2m.root, mode, root, gvas)
        for gva, walk in zip(gvas, walks, strict=True):
            maddrs = [read.maddr for read in walk]
            assert model_walk(memory, guest, gva, engine) == (len(maddrs), last_reads(maddrs))
