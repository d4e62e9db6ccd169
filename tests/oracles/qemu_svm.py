"""Nested page tables under QEMU's SVM: each probe is one access of a guest at a guest-physical address.

The guest pages too, by tables of the harness: one to one, so that its linear addresses are guest-physical ones. They
and its code stand where one entry of a copy of the tables' root leads, the hidden one::

    4-level   entry 1 of the PML4: gpa 512G .. 1T        (a guest in long mode, gpas below 1 TiB)
    pae       entry 3 of the page-directory pointers: gpa 3G .. 4G        (a 32-bit guest)

It is entry 0 for the probes that lie there. Accessed bits of the copies are carried back to the root, but not under
PAE: there the entries of the root have none, and QEMU sets them all the same.

Where this walker is not what the manual describes: EXITINFO1 lacks bit 0 (P) where it has bit 3 (RSVD), and bits 1,
2 and 8:5 of PAE's root entries, which must be zero, are not checked.
Source: AMD APM vol. 2, "Nested Paging"; appendix "Layout of VMCB".
"""

from typing import NamedTuple

import numpy as np
from qemu_machine import EXECUTE, LOAD, ROUTINES, STORE, WRITE, Array, QemuMachine, carry_back

from twofold.machine import Arena

HALTED, NESTED_PAGE_FAULT = 0x78, 0x400
PHYSICAL_BITS = 40  # of this CPU, and so of guest-physical addresses
RESULT = np.dtype([(name, np.uint64) for name in ("exit_code", "info1", "info2", "value")])

_INVALID = np.uint64(2**64 - 1)
_FIRST_FRAMES = 64  # of the harness, before the VMCBs
_TABLE, _LEAF = 0x67, 0xE7  # present, writable, user, accessed, dirty; and large
_NOWHERE = 1 << 62  # in no canonical half: what else an instruction happens to reach faults


class Host(NamedTuple):
    """How the host pages, and the guest that it can have.

    shift : bits of a gpa below those that an entry of the root translates
    hidden : the entry that leads to the harness; 0 when the probe needs that one
    """

    shift: int
    hidden: int
    efer: int
    guest_efer: int
    guest_cr4: int
    code_attributes: int


# EFER: LME, NXE, SVME; the guest's with LMA. Without NXE no fault would tell that it was a fetch. CR4: PAE, or PSE.
HOSTS = {
    "4-level": Host(39, 1, 0x1900, 0x1D00, 0x20, 0xA9B),
    "pae": Host(30, 3, 0x1800, 0x1000, 0x10, 0xC9B),
}


def probe_npt(arena: Arena, root_mfn: int, paging: str, gpas: Array, accesses: np.ndarray, dwords: Array) -> np.ndarray:
    """Return what each access comes to, RESULT[probes]; the accesses are made in order, each on an empty TLB.

    exit_code : HALTED if the access was made, NESTED_PAGE_FAULT, or what else became of the guest
    info1, info2 : EXITINFO1 and EXITINFO2
    value : EAX at the end

    Parameters
    ----------
    arena : the machine; stores, accessed and dirty bits are in it afterwards
    root_mfn : frame of the top table
    paging : the host's, one of HOSTS
    gpas : uint64[probes], multiples of 8
    accesses : READ, WRITE or EXECUTE, [probes]
    dwords : what stores store, uint64[probes]
    """
    host = HOSTS[paging]
    limit = 32 if paging == "pae" else PHYSICAL_BITS
    if (gpas >> np.uint64(limit)).any() or (gpas & np.uint64(7)).any():
        raise ValueError(f"a gpa has more than {limit} bits, or is no multiple of 8")
    slots = gpas >> np.uint64(host.shift)
    with QemuMachine(arena, _FIRST_FRAMES + len(gpas)) as machine:
        save, _ = machine.alloc()
        code, page = machine.alloc()
        page.reshape(-1)[0] = np.frombuffer(ROUTINES, np.uint64)[0]
        host_cr3 = _host_tables(machine, paging)
        roots = {hidden: _shadow_root(machine, arena.tables[root_mfn], paging, hidden) for hidden in (0, host.hidden)}
        bases = {hidden: (hidden << host.shift) - (machine.first << 12) for hidden in roots}
        guests = {hidden: _guest_tables(machine, paging, base) for hidden, base in bases.items()}
        at, vmcbs = _vmcbs(machine, host, len(gpas))
        for hidden, chosen in ((host.hidden, slots != host.hidden), (0, slots == host.hidden)):
            vmcbs[chosen, 0xB0 // 8] = roots[hidden][0]
            vmcbs[chosen, 0x550 // 8] = guests[hidden]
            base = bases[hidden]  # from machine to guest-physical
            routine = np.where(accesses[chosen] == WRITE, STORE, LOAD).astype(np.uint64) + np.uint64(code + base)
            vmcbs[chosen, 0x578 // 8] = np.where(accesses[chosen] == EXECUTE, gpas[chosen], routine)
        nowhere = 0 if paging == "pae" else _NOWHERE
        vmcbs[:, 0x5D8 // 8] = np.where(accesses == WRITE, dwords, 0)
        vmcbs[:, 0x5F8 // 8] = np.where(accesses == EXECUTE, nowhere, gpas)
        machine.run("svm_probe.S", [host_cr3, host.efer, save, at, len(gpas)])
        results = np.empty(len(gpas), RESULT)
        for name, offset in (("exit_code", 0x70), ("info1", 0x78), ("info2", 0x80), ("value", 0x5F8)):
            results[name] = vmcbs[:, offset // 8]
        if paging != "pae":
            for hidden, (_, copy) in roots.items():
                carry_back(arena.tables[root_mfn], copy, hidden)
    if (results["exit_code"] == _INVALID).any():
        raise RuntimeError("the CPU refuses a VMCB")
    return results


def _host_tables(machine: QemuMachine, paging: str) -> int:
    """Return the CR3 of tables that map 4 GiB one to one."""
    if paging != "pae":
        pointers, _ = machine.table(*(gib << 30 | _LEAF for gib in range(4)))
        return machine.table(pointers | _TABLE)[0]
    at, directories = machine.alloc(4)
    directories.reshape(-1)[:] = np.arange(2048, dtype=np.uint64) << np.uint64(21) | np.uint64(_LEAF)
    return machine.table(*(at + 4096 * gib | 1 for gib in range(4)))[0]


def _shadow_root(machine: QemuMachine, root: Array, paging: str, hidden: int) -> tuple[int, Array]:
    """Return where a copy of a root is whose hidden entry leads to the first 2M of the harness, and the copy."""
    directory, _ = machine.table(machine.first << 12 | _LEAF)
    at, copy = machine.table(*root.tolist())
    if paging == "pae":
        copy[hidden] = directory | 1
    else:
        copy[hidden] = machine.table(directory | _TABLE)[0] | _TABLE
    return at, copy


def _guest_tables(machine: QemuMachine, paging: str, base: int) -> int:
    """Return the CR3 of a guest that maps all it can reach one to one. `base` : from machine to guest-physical."""
    if paging == "pae":  # two-level tables of 4M leaves
        at, directory = machine.alloc()
        directory.view(np.uint32)[0] = np.arange(1024, dtype=np.uint32) << np.uint32(22) | np.uint32(_LEAF)
        return at + base
    at, pointers = machine.alloc(2)
    pointers.reshape(-1)[:] = np.arange(1024, dtype=np.uint64) << np.uint64(30) | np.uint64(_LEAF)
    return machine.table(at + base | _TABLE, at + 4096 + base | _TABLE)[0] + base


def _vmcbs(machine: QemuMachine, host: Host, count: int) -> tuple[int, Array]:
    """Return the machine address of as many VMCBs, and them: uint64[count, 512] with what all have in common."""
    fields = {
        0x08: 0xFFFFFFFF | (1 << 24 | 1 << 31) << 32,  # intercepts: all exceptions; HLT, shutdown
        0x10: 1,  # VMRUN
        0x58: 1 | 1 << 32,  # ASID 1; TLB_CONTROL: all entries
        0x90: 1,  # nested paging
        0x4D0: host.guest_efer,
        0x548: host.guest_cr4,
        0x558: 0x80010011,  # CR0: PG, WP, ET, PE
        0x560: 0x400,  # DR7
        0x568: 0xFFFF0FF0,  # DR6
        0x570: 2,  # RFLAGS
        0x668: 0x0007040600070406,  # PAT
    }
    for offset in (0x400, 0x420, 0x430, 0x440, 0x450):  # ES, SS, DS, FS, GS: selector, attributes, limit
        fields[offset] = 16 | 0xC93 << 16 | 0xFFFFFFFF << 32
    fields[0x410] = 8 | host.code_attributes << 16 | 0xFFFFFFFF << 32
    template = np.zeros(512, np.uint64)
    for offset, value in fields.items():
        template[offset // 8] = value
    at, vmcbs = machine.alloc(count)
    vmcbs[:] = template
    return at, vmcbs
