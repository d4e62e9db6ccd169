"""Pricing a trace on the tables of a guest."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.formats.mmu_state import LOAD, STORE
from twofold.guest import ACCESS_DTYPE, AddressSpace
from twofold.mmu import CpuProfile, Event, Mmu, MmuStats, load_profile, run_with_events
from twofold.trace import AREA_BASE, Trace, Workload

Gvas = npt.NDArray[np.uint64]
Kinds = npt.NDArray[np.uint8]


def simulate(
    trace: Trace | npt.ArrayLike | Iterable[Gvas | tuple[Gvas, Kinds]],
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
        stores from loads; a `Trace`, whose loads and stores are taken; or an iterable of (gvas, kinds of access)
    cpu : a profile, its name, or the path of a TOML file
    warmup : so many first accesses fill the caches without being counted [accesses]
    events : what happens between accesses: tables change, entries are flushed
    threads : 1, or more for two of them; what is counted is the same, bit for bit

    Raises
    ------
    NotPresentError : an address that the guest has not mapped
    """
    profile = load_profile(cpu) if isinstance(cpu, str) else cpu
    domain = guest.domain
    machine = domain.machine
    mmu = Mmu(
        profile,
        machine.arena.tables,
        guest.tables.root,
        domain.p2m.root,
        machine.engine.mmu,
        (guest.tables.shape, domain.p2m.format.shape),
    )
    parts = list(run_with_events(mmu, _blocks(trace), warmup, events, threads))
    return reduce(add, parts or [mmu.run(np.empty(0, np.uint64))])


def _blocks(trace: Any) -> Iterator[tuple[Gvas, Kinds | None]]:
    """Yield the arrays of a trace; a list of numbers is one array, and so is a recording."""
    if isinstance(trace, Trace):
        yield from trace.accesses()
    elif isinstance(trace, np.ndarray):
        yield _block(trace)
    elif isinstance(trace, Iterator) or (isinstance(trace, Sequence) and trace and isinstance(trace[0], np.ndarray)):
        yield from map(_block, trace)
    else:
        yield _block(np.ascontiguousarray(trace, np.uint64))


def _block(part: Any) -> tuple[Gvas, Kinds | None]:
    """Return addresses and kinds of access of one array, or pair of arrays; None where it does not tell."""
    if isinstance(part, tuple):
        gvas, kinds = part
        return gvas, kinds
    if part.dtype == ACCESS_DTYPE:
        return np.ascontiguousarray(part["gva"]), np.where(part["write"], STORE, LOAD).astype(np.uint8)
    return np.ascontiguousarray(part, np.uint64).reshape(-1), None


def workload_trace(workload: Workload, seed: int, footprint: int, accesses: int) -> Iterator[Gvas]:
    """Return `accesses` addresses of a workload's measured part, in blocks; the last step may be cut short."""
    return workload.blocks(seed, AREA_BASE, footprint, accesses)
