"""Pricing a trace on the tables of a guest."""

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from twofold.errors import wrong_type
from twofold.guest import AddressSpace
from twofold.guest.addresses import Gvas, TraceLike, accesses_of
from twofold.mmu import CpuProfile, Event, Mmu, MmuStats, load_profile, run_with_events
from twofold.trace import AREA_BASE, Workload, get_workload, open_reader


def simulate(
    trace: TraceLike | str | Path,
    guest: AddressSpace,
    cpu: str | CpuProfile = "zen3",
    *,
    warmup: int = 0,
    events: Iterable[Event] = (),
    threads: int = 1,
) -> MmuStats:
    """Return what a trace of guest virtual addresses costs on a guest's own tables, of whichever format.

    Parameters
    ----------
    trace : gvas in order, one array or an iterable of arrays that follow each other; what `run` recorded, which tells
        stores from loads; a `Trace`, or its blocks, whose loads and stores are taken; an iterable of (gvas, kinds); or
        the path of a trace file of any format
    cpu : a profile, its name, or the path of a TOML file
    warmup : so many first accesses fill the caches without being counted [accesses]
    events : what happens between accesses: tables change, entries are flushed
    threads : that may share long arrays of loads; what is counted is the same, bit for bit

    Raises
    ------
    NotPresentError : an address that the guest has not mapped
    """
    profile = cpu if isinstance(cpu, CpuProfile) else load_profile(cpu)
    if not isinstance(guest, AddressSpace):
        raise wrong_type("an address space is a Guest or a TraceGuest", guest)
    if isinstance(trace, str | Path):
        trace = open_reader(trace).blocks()
    domain = guest.domain
    machine = domain.machine
    roots = domain.paging.roots(guest.tables)
    mmu = Mmu(profile, machine.arena.tables, roots.guest_root, roots.p2m_root, machine.engine.mmu, roots.shapes)
    parts = list(run_with_events(mmu, accesses_of(trace), warmup, events, threads))
    return reduce(add, parts or [mmu.run(np.empty(0, np.uint64))])


def workload_trace(
    workload: Workload | str, seed: int, footprint: int, accesses: int, base: int = AREA_BASE
) -> Iterator[Gvas]:
    """Return `accesses` addresses of a workload's measured part, in blocks; the last step may be cut short.

    workload : itself, or its name
    base : gva of its area
    """
    workload = workload if isinstance(workload, Workload) else get_workload(workload)
    return workload.blocks(seed, base, footprint, accesses)
