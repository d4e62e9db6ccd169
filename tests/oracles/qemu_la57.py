"""Five-level tables under QEMU's walker for CR4.LA57: each probe is one access at a linear address, from ring 3.

QEMU walks nested tables with at most four levels that are known to be right. The format of five levels is the same
in both uses, and so are the rights: a nested walk counts as one of ring 3. So the probes are the other way round, of
the format as the first dimension: the address under test is a linear one, sign-extended, and a refused access is a
page fault.

The harness needs one entry of the root, which it has in a copy: the first one that no probe needs, `hidden`::

    base = hidden << 48       the first 4 GiB of machine memory, one to one, for ring 0
    base + 4G .. base + 5G    the GiB that the harness is in, for ring 3: the routines that load and store

Where this walker is not what the manual describes: the error code lacks bit 0 (P) where it has bit 3 (RSVD).
Source: AMD APM vol. 2, "5-Level Paging"; "Page-Fault Error Code"; "64-Bit Task State Segment".
"""

import numpy as np
from qemu_machine import EXECUTE, LOAD, ROM_BASE, ROUTINES, STORE, WRITE, Array, QemuMachine, carry_back

from twofold.machine import Arena

GENERAL_PROTECTION, PAGE_FAULT = 13, 14
ADDRESS_BITS = 57
RESULT = np.dtype([(name, np.uint64) for name in ("vector", "error", "cr2", "value")])

_RECORD = np.dtype([(name, np.uint64) for name in ("rip", "rax", "rsp", "unused")] + RESULT.descr)
_FIRST_FRAMES = 16  # of the harness, before the records
_SHIFT = 48  # bits of a linear address below those that an entry of the root translates
_TABLE, _LEAF, _USER_LEAF = 0x67, 0xE3, 0xE7  # present, writable, user, accessed, dirty; large, not user; and user
_NOWHERE = 1 << 62  # in no canonical half: what else an instruction happens to reach faults

# Of la57_probe.S: its descriptors, and the offsets of its handlers in the ROM.
_DESCRIPTORS = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
_CODE_64 = 24
_HANDLERS = {GENERAL_PROTECTION: 0x200, PAGE_FAULT: 0x240}
_POINTERS_AT, _TASK_AT, _TASK_BYTES = 0x80, 0x100, 0x68  # in the frame of the descriptors


def linear(addresses: Array) -> Array:
    """Return addresses of 57 bits as the CPU takes them: sign-extended."""
    above = np.uint64(64 - ADDRESS_BITS)
    return ((addresses << above).view(np.int64) >> np.int64(above)).view(np.uint64)


def probe_la57(arena: Arena, root_mfn: int, addresses: Array, accesses: np.ndarray, dwords: Array) -> np.ndarray:
    """Return what each access comes to, RESULT[probes]; the accesses are made in order, each on an empty TLB.

    vector : GENERAL_PROTECTION if the access was made (HLT ends it), or PAGE_FAULT
    error, cr2 : of a page fault; cr2 sign-extended
    value : EAX at the end

    Parameters
    ----------
    arena : the machine; stores, accessed and dirty bits are in it afterwards
    root_mfn : frame of the top table
    addresses : uint64[probes], 57 bits, multiples of 8
    accesses : READ, WRITE or EXECUTE, [probes]
    dwords : what stores store, uint64[probes]
    """
    if (addresses >> np.uint64(ADDRESS_BITS)).any() or (addresses & np.uint64(7)).any():
        raise ValueError(f"an address has more than {ADDRESS_BITS} bits, or is no multiple of 8")
    hidden = _free_slot(addresses >> np.uint64(_SHIFT))
    base = int(linear(np.array([hidden << _SHIFT], np.uint64))[0])
    fetch, asked = accesses == EXECUTE, linear(addresses)
    record_frames = -(-len(addresses) * _RECORD.itemsize // 4096)
    with QemuMachine(arena, _FIRST_FRAMES + record_frames) as machine:
        code, page = machine.alloc()
        page.reshape(-1)[0] = np.frombuffer(ROUTINES, np.uint64)[0]
        stack = machine.alloc()[0] + 4096 + base
        pointers, _ = machine.table(*(gib << 30 | _LEAF for gib in range(4)), code >> 30 << 30 | _USER_LEAF)
        slot, _ = machine.table(pointers | _TABLE)
        boot_root, boot_entries = machine.table(slot | _TABLE)
        boot_entries[hidden] = slot | _TABLE
        test_root, copy = machine.table(*arena.tables[root_mfn].tolist())
        copy[hidden] = slot | _TABLE
        at, frames = machine.alloc(record_frames)
        records = frames.reshape(-1).view(_RECORD)[: len(addresses)]
        user_page = base + (4 << 30) + (code & (1 << 30) - 1)
        routine = np.uint64(user_page) + np.where(accesses == WRITE, STORE, LOAD).astype(np.uint64)
        records["rip"] = np.where(fetch, asked, routine)
        records["rax"] = np.where(fetch, np.uint64(_NOWHERE), asked)
        records["rsp"] = np.where(accesses == WRITE, dwords, 0)
        descriptors = _descriptors(machine, base, stack)
        machine.run("la57_probe.S", [boot_root, test_root, base, descriptors, stack, at + base, len(addresses)])
        results = np.empty(len(addresses), RESULT)
        for name in RESULT.names:
            results[name] = records[name]
        carry_back(arena.tables[root_mfn], copy, hidden)
    return results


def _free_slot(slots: Array) -> int:
    """Return the first entry of the root that no probe needs."""
    free = np.setdiff1d(np.arange(512), slots)
    if not free.size:
        raise ValueError("the probes need every entry of the root")
    return int(free[0])


def _descriptors(machine: QemuMachine, base: int, stack: int) -> int:
    """Return the linear address of what LGDT and LIDT take, all tables behind it made. `base` : from machine."""
    at, frame = machine.alloc()
    gates_at, gates = machine.alloc()
    task = at + base + _TASK_AT
    # The descriptor of the TSS: present, an available 64-bit TSS; its base in four pieces.
    low = _TASK_BYTES - 1 | (task & 0xFFFFFF) << 16 | 0x89 << 40 | (task >> 24 & 0xFF) << 56
    descriptors = (*_DESCRIPTORS, low, task >> 32)
    words, bytes_ = frame[0], frame[0].view(np.uint8)
    words[: len(descriptors)] = descriptors
    for offset, table, limit in ((0, at, 8 * len(descriptors)), (16, gates_at, 16 * (PAGE_FAULT + 1))):
        pointer = (limit - 1).to_bytes(2, "little") + (table + base).to_bytes(8, "little")
        bytes_[_POINTERS_AT + offset :][:10] = np.frombuffer(pointer, np.uint8)
    bytes_[_TASK_AT + 4 :][:8] = np.frombuffer(stack.to_bytes(8, "little"), np.uint8)  # RSP0
    for vector, offset in _HANDLERS.items():
        handler = ROM_BASE + offset + base
        # An interrupt gate of ring 0; the address in three pieces.
        gates[0, 2 * vector] = handler & 0xFFFF | _CODE_64 << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48
        gates[0, 2 * vector + 1] = handler >> 32
    return at + base + _POINTERS_AT
