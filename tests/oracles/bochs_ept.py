"""EPT tables under Bochs's walker: each probe is one access of a guest at a guest-physical address.

The guest pages too. Its tables are the harness's; one PTE of them, the window, is set to the address under test::

    gpa 0 .. 512G    what the tables under test say
    gpa 512G .. 1T   the harness: the guest's tables and code (the other way round for probes above 512G)

Where this walker is not what the manual describes: bit 12 of a 2M or a 1G leaf is reserved, but ignored here. Where
the manual leaves room: a walk that ends in an exit sets no accessed bit at all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from bochs_cpu import (
    EXECUTE,
    FRAME_BYTES,
    FRAME_SHIFT,
    GUEST_CODE_OFFSET,
    GUEST_PDPTE0,
    HARNESS_MFNS,
    HLT_EXIT,
    MODES,
    PHYSICAL_BITS,
    READ,
    Harness,
    Read,
    split_by_hidden,
)

DONE, VIOLATION, MISCONFIGURATION = HLT_EXIT, 48, 49
CODE_MFN = HARNESS_MFNS.start + (GUEST_CODE_OFFSET >> FRAME_SHIFT)  # where the routines of loads and stores are

_PML4_SHIFT = 39
_RWX = 7
_LARGE_WRITE_BACK = 1 << 7 | 6 << 3
_GUEST_TABLE, _GUEST_LEAF = 0x23, 0x63  # present, writable, accessed; the leaf dirty
_CODE_LINEAR, _WINDOW_LINEAR = 0x1000, 0x100000  # the page after the window is not mapped
_POINTER_FLAGS = 6 | 3 << 3  # of an EPT pointer: write-back, four levels
_POINTER_AD = 1 << 6
# Bits 9 and up tell of the guest's own translation, which is the harness's.
_QUALIFICATION_BITS = 0x1FF


class Result(NamedTuple):
    """What came of one access.

    reason : basic exit reason: 12 it was made (HLT), 48 EPT violation, 49 EPT misconfiguration
    qualification : of a violation, bits 8:0; otherwise 0
    gpa : the guest-physical address that an exit reports; 0 if the access was made
    value : the word that a load brought; otherwise 0
    """

    reason: int
    qualification: int
    gpa: int
    value: int


def probe_ept(
    memory: np.ndarray, root_mfn: int, probes: Sequence[tuple[int, str]], *, use_ad: bool = True
) -> tuple[list[Result], np.ndarray]:
    """Return what each access comes to, and the memory afterwards.

    The accesses are made in order, each on an empty TLB. A load or a store is of the aligned 8 bytes around the
    address; a store writes its address. A fetch is of the last byte of the page, which is what an exit reports.

    Parameters
    ----------
    memory : uint64[frames, 512], machine memory from frame 0; bochs_cpu.py has the other frames
    root_mfn : frame of the PML4
    probes : pairs (guest-physical address below 1 TiB, "read" | "write" | "execute")
    use_ad : whether the walker sets accessed and dirty bits: bit 6 of the EPT pointer
    """
    with _prepared(memory, root_mfn, probes, use_ad=use_ad) as harness:
        harness.run(MODES["4-level"], nested=True)
    return [*map(Result._make, _outcomes(harness))], harness.memory


def reads_of(memory: np.ndarray, root_mfn: int, gpas: Sequence[int], *, use_ad: bool = True) -> list[list[Read]]:
    """Return the reads of EPT entries that a load from each guest-physical address takes, in order."""
    with _prepared(memory, root_mfn, [(gpa, READ) for gpa in gpas], use_ad=use_ad) as harness:
        harness.run(MODES["4-level"], nested=True, trace=True)
    return harness.reads()


def reads_of_nested(
    memory: np.ndarray, root_mfn: int, mode: str, guest_root: int, gvas: Sequence[int], *, use_ad: bool = True
) -> list[list[Read]]:
    """Return the reads of entries, the guest's and EPT's, that a two-dimensional walk takes, in order.

    The walks are those of fetches: nothing of the harness is mapped. The last byte of each page has to be INT3
    (`bochs_cpu.fill`, or a made-up frame), or the walk has to fail.

    Parameters
    ----------
    memory, root_mfn, use_ad : as for `probe_ept`
    mode : the guest's, "4-level" | "pae" | "2-level"
    guest_root : guest-physical address of the guest's top table; below 4 GiB for a 32-bit guest
    gvas : guest-virtual addresses
    """
    fields = {}
    if mode == "pae":
        # The PDPTEs are part of the CPU's state: MOV CR3 loads them, and a VM entry takes them from the VMCS.
        loads, _ = probe_ept(memory, root_mfn, [(guest_root + 8 * i, READ) for i in range(4)], use_ad=False)
        fields = {GUEST_PDPTE0 + 2 * i: load.value for i, load in enumerate(loads)}
    with Harness(memory, [(gva, EXECUTE) for gva in gvas]) as harness:
        everything = np.ones(len(gvas), bool)
        harness.aim(everything, MODES[mode], code=0, operands=harness.addresses)
        harness.records["eptp"] = _pointer(root_mfn, use_ad=use_ad)
        harness.records["cr3"] = guest_root
        harness.run(MODES[mode], nested=True, fields=fields, trace=True)
    records, fetched = harness.records, harness.addresses | np.uint64(FRAME_BYTES - 1)
    stopped = np.isin(records["reason"], (VIOLATION, MISCONFIGURATION)) & (records["linear"] == fetched)
    stopped |= harness.page_faults() & (records["qualification"] == fetched)
    if not (stopped | harness.breakpoints()).all():
        raise ValueError("a page that a fetch reaches does not end in INT3")
    return harness.reads()


class NestedResult(NamedTuple):
    """What came of one access of a guest that pages by tables under test.

    kind : "done", "violation" or "misconfiguration", "page fault"
    code : exit qualification, bits 8:0, or error code
    address : guest-physical of an exit, virtual of a page fault; 0 if the access was made
    """

    kind: str
    code: int = 0
    address: int = 0


def probe_nested(
    memory: np.ndarray, root_mfn: int, mode: str, guest_root: int, code: int, probes: Sequence[tuple[int, str]]
) -> tuple[list[NestedResult], np.ndarray]:
    """Return what each access comes to under a guest's own tables over EPT, and the memory afterwards.

    The accesses are made as those of `probe_ept` are; with A and D bits of EPT on. A load or a store is made by code
    that both dimensions have to map, and so takes the walk of its fetch first.

    Parameters
    ----------
    memory, root_mfn : as for `probe_ept`
    mode : the guest's, "4-level" | "2-level" (PAE's root entries are part of the CPU's state)
    guest_root : guest-physical address of the guest's top table
    code : gva that leads to `CODE_MFN`
    probes : pairs (gva, access); the last byte of a page that is fetched has to be INT3
    """
    with Harness(memory, probes) as harness:
        everything = np.ones(len(probes), bool)
        harness.aim(everything, MODES[mode], code=code, operands=harness.addresses)
        harness.records["eptp"] = _pointer(root_mfn, use_ad=True)
        harness.records["cr3"] = guest_root
        harness.run(MODES[mode], nested=True)
    return [_nested_result(harness, number) for number in range(len(probes))], harness.memory


def _nested_result(harness: Harness, number: int) -> NestedResult:
    """Return what came of one record."""
    record, is_fetch = harness.records[number], harness.accesses[number] == EXECUTE
    reason, qualification = int(record["reason"]), int(record["qualification"])
    if reason in {VIOLATION, MISCONFIGURATION}:
        kind = "violation" if reason == VIOLATION else "misconfiguration"
        return NestedResult(kind, qualification & _QUALIFICATION_BITS if reason == VIOLATION else 0, int(record["gpa"]))
    if harness.page_faults()[number]:
        return NestedResult("page fault", int(record["error"]), qualification)
    if not (harness.breakpoints()[number] if is_fetch else reason == HLT_EXIT):
        raise RuntimeError(f"a probe ended in {record}")
    return NestedResult("done")


def _pointer(root_mfn: int, *, use_ad: bool) -> int:
    return root_mfn << FRAME_SHIFT | _POINTER_FLAGS | _POINTER_AD * use_ad


def _prepared(memory: np.ndarray, root_mfn: int, probes: Sequence[tuple[int, str]], *, use_ad: bool) -> Harness:
    """Return a harness whose records make these accesses."""
    harness = Harness(memory, probes)
    gpas, records = harness.addresses, harness.records
    if (gpas >> np.uint64(PHYSICAL_BITS)).any():
        raise ValueError("a guest-physical address is 1 TiB or above")
    window = np.uint64(_WINDOW_LINEAR) | gpas & np.uint64(FRAME_BYTES - 1)
    for hidden, chosen in split_by_hidden(gpas >> np.uint64(_PML4_SHIFT), last=1):
        # One 2M leaf shows the guest the first frames of the harness.
        directory = harness.alloc(HARNESS_MFNS.start << FRAME_SHIFT | _LARGE_WRITE_BACK | _RWX)
        pointers = harness.alloc(directory << FRAME_SHIFT | _RWX)
        root = harness.shadow(root_mfn, hidden)
        harness.table(root)[hidden] = pointers << FRAME_SHIFT | _RWX
        base = (hidden << _PML4_SHIFT) - (HARNESS_MFNS.start << FRAME_SHIFT)  # from machine to guest-physical
        # The guest's tables, from the leaf up: the code, and an entry that each probe sets.
        table = harness.alloc(0, (HARNESS_MFNS.start << FRAME_SHIFT) + GUEST_CODE_OFFSET + base | _GUEST_LEAF)
        records["pte_at"][chosen] = (table << FRAME_SHIFT) + 8 * (_WINDOW_LINEAR >> FRAME_SHIFT)
        records["pte"][chosen] = gpas[chosen] & np.uint64(2**64 - FRAME_BYTES) | np.uint64(_GUEST_LEAF)
        for _ in range(3):
            table = harness.alloc((table << FRAME_SHIFT) + base | _GUEST_TABLE)
        records["cr3"][chosen] = (table << FRAME_SHIFT) + base
        records["eptp"][chosen] = _pointer(root, use_ad=use_ad)
        harness.aim(chosen, MODES["4-level"], code=_CODE_LINEAR, operands=window[chosen])
    return harness


def _outcomes(harness: Harness) -> list[tuple[int, int, int, int]]:
    """Return the fields of each record's `Result`."""
    records, accesses = harness.records, harness.accesses
    violation, misconfiguration = records["reason"] == VIOLATION, records["reason"] == MISCONFIGURATION
    stopped = violation | misconfiguration
    # A fetch that is made may end in anything: what its byte means is of no interest.
    odd = ~stopped & (accesses != EXECUTE) & (records["reason"] != HLT_EXIT)
    if odd.any():
        raise RuntimeError(f"a probe ended in {records[odd][0]}")
    columns = (
        np.where(stopped, records["reason"], DONE),
        np.where(violation, records["qualification"] & np.uint64(_QUALIFICATION_BITS), 0),
        np.where(stopped, records["gpa"], 0),
        np.where(~stopped & (accesses == READ), harness.values(), 0),
    )
    return [*zip(*(column.tolist() for column in columns), strict=True)]
