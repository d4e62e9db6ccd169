"""Guests' own page tables over nested ones under QEMU's SVM: each probe is one access at a guest-virtual address.

Everything that is walked is under test, the roots of both dimensions too. The harness has nothing in the guest but one
page of code, which the guest maps like any other: a load or a store is made from there, and so takes two walks, first
that of the fetch. A fetch is made where it is asked for.

Where this walker is not what the manual describes: see qemu_svm.py; and it sets A in the root entries of PAE tables, of
either dimension, which have none.
"""

from typing import NamedTuple

import numpy as np
from qemu_machine import EXECUTE, LOAD, STORE, WRITE, Array, QemuMachine
from qemu_svm import HOSTS, RESULT, _host_tables, _vmcbs

from twofold.machine import Arena

PAGE_FAULT = 0x40 + 14  # the exit code of the guest's own
_NOWHERE = 1 << 62
_FIRST_FRAMES = 16


class Inside(NamedTuple):
    """How a guest pages: EFER, CR4, attributes of its code segment."""

    efer: int
    cr4: int
    code_attributes: int


# EFER: LME, LMA, NXE, SVME. CR4: PAE, or PSE.
GUESTS = {
    "4-level": Inside(0x1D00, 0x20, 0xA9B),
    "pae": Inside(0x1800, 0x20, 0xC9B),
    "2-level": Inside(0x1000, 0x10, 0xC9B),
}


class Roots(NamedTuple):
    """What is under test: the host's paging mode and the mfn of its P2M, the guest's mode and the gfn of its tables."""

    paging: str
    p2m: int
    mode: str
    guest: int


def probe_nested(arena: Arena, roots: Roots, code: int, gvas: Array, accesses: np.ndarray, dwords: Array) -> np.ndarray:
    """Return what each access comes to, RESULT[probes]; the accesses are made in order, each on an empty TLB.

    Parameters
    ----------
    arena : the machine; stores, accessed and dirty bits are in it afterwards
    code : gva of `qemu_machine.ROUTINES`
    gvas : uint64[probes], multiples of 8
    accesses : READ, WRITE or EXECUTE, [probes]
    dwords : what stores store, uint64[probes]
    """
    host, inside = HOSTS[roots.paging], GUESTS[roots.mode]
    host = host._replace(guest_efer=inside.efer, guest_cr4=inside.cr4, code_attributes=inside.code_attributes)
    with QemuMachine(arena, _FIRST_FRAMES + len(gvas)) as machine:
        save, _ = machine.alloc()
        host_cr3 = _host_tables(machine, roots.paging)
        at, vmcbs = _vmcbs(machine, host, len(gvas))
        routine = np.where(accesses == WRITE, STORE, LOAD).astype(np.uint64) + np.uint64(code)
        vmcbs[:, 0xB0 // 8] = roots.p2m << 12
        vmcbs[:, 0x550 // 8] = roots.guest << 12
        vmcbs[:, 0x578 // 8] = np.where(accesses == EXECUTE, gvas, routine)
        vmcbs[:, 0x5D8 // 8] = np.where(accesses == WRITE, dwords, 0)
        nowhere = _NOWHERE if roots.mode == "4-level" else 0
        vmcbs[:, 0x5F8 // 8] = np.where(accesses == EXECUTE, nowhere, gvas)
        machine.run("svm_probe.S", [host_cr3, host.efer, save, at, len(gvas)])
        results = np.empty(len(gvas), RESULT)
        for name, offset in (("exit_code", 0x70), ("info1", 0x78), ("info2", 0x80), ("value", 0x5F8)):
            results[name] = vmcbs[:, offset // 8]
    return results
