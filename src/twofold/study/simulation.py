"""Pricing a trace on the tables of a guest."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.errors import GuestError
from twofold.guest import ACCESS_DTYPE, Guest
from twofold.mmu import CpuProfile, Mmu, MmuStats, load_profile
from twofold.trace import AREA_BASE, Trace, Workload

Gvas = npt.NDArray[np.uint64]
BLOCK_STEPS: Final = 1 << 20  # of a generated trace that are in memory at a time


def simulate(
    trace: Trace | npt.ArrayLike | Iterable[Gvas], guest: Guest, cpu: str | CpuProfile = "zen3", *, warmup: int = 0
) -> MmuStats:
    """Return what a trace of guest virtual addresses costs on a guest's own tables.

    Parameters
    ----------
    trace : gvas in order, one array or an iterable of arrays that follow each other; what `run` recorded; or a `Trace`,
        whose loads and stores are taken
    cpu : a profile, its name, or the path of a TOML file
    warmup : so many first accesses fill the caches without being counted [accesses]

    Raises
    ------
    NotPresentError : an address that the guest has not mapped
    GuestError : tables that the model does not walk
    """
    _check_tables(guest)
    profile = load_profile(cpu) if isinstance(cpu, str) else cpu
    domain = guest.domain
    machine = domain.machine
    mmu = Mmu(profile, machine.arena.tables, guest.tables.root, domain.p2m.root, machine.engine.mmu)
    parts = []
    for block in _blocks(trace):
        cold = min(warmup, len(block))
        warmup -= cold
        parts.append(mmu.run(block, cold))
    return reduce(add, parts or [mmu.run(np.empty(0, np.uint64))])


def _check_tables(guest: Guest) -> None:
    """Refuse what the model would misread: it walks 4-level guest tables over a 4-level NPT, and no others yet."""
    table_format = guest.domain.p2m.format.name
    if (guest.mode, table_format) != ("4-level", "npt"):
        raise GuestError(
            f"the MMU model walks 4-level guest tables over a 4-level NPT; this guest has {guest.mode} tables over "
            f"{table_format}: run it, or build it anew"
        )


def _blocks(trace: Any) -> Iterator[Gvas]:
    """Yield the arrays of a trace; a list of numbers is one array, and so is a recording."""
    if isinstance(trace, Trace):
        yield from trace.gvas()
    elif isinstance(trace, np.ndarray) and trace.dtype == ACCESS_DTYPE:
        yield np.ascontiguousarray(trace["gva"])
    elif isinstance(trace, Iterator) or (isinstance(trace, Sequence) and trace and isinstance(trace[0], np.ndarray)):
        yield from trace
    else:
        yield np.ascontiguousarray(trace, np.uint64).reshape(-1)


def workload_trace(workload: Workload, seed: int, footprint: int, accesses: int) -> Iterator[Gvas]:
    """Yield `accesses` addresses of a workload's measured part, in blocks; the last step may be cut short."""
    steps = -(-accesses // workload.accesses_per_step)
    for start in range(0, steps, BLOCK_STEPS):
        block = workload.addresses(seed, AREA_BASE, footprint, min(BLOCK_STEPS, steps - start), start)
        yield block[: accesses - start * workload.accesses_per_step]
