"""One-level tables under Bochs's walker: four-level (long mode), PAE, and two-level with PSE-36.

Each probe is one access of a supervisor, with CR0.WP on, and EFER.NXE where there is a bit 63. The guest's code is in
the part of the address space that one entry of a copied table maps, the last one::

    2-level   entry 1023 of the page directory: 0xffc00000 .. 4G
    pae       entry 511 of the last page directory: 0xffe00000 .. 4G
    4-level   entry 511 of the PML4: 0xffffff8000000000 .. 2**64

It is entry 0 for the probes that lie there. Where the manual leaves room: a walk that ends in a fault sets no accessed
bit at all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from bochs_cpu import (
    EXECUTE,
    FRAME_SHIFT,
    GUEST_CODE_OFFSET,
    HARNESS_MFNS,
    HLT_EXIT,
    MODES,
    READ,
    Harness,
    Read,
    split_by_hidden,
)

# Bits of a linear address that one entry of the table with the hidden entry translates, and how many entries can be
# hidden: of all page directories together under PAE.
_SLOTS = {"4-level": (39, 512), "pae": (21, 2048), "2-level": (22, 1024)}
_PRESENT, _TABLE = 0x01, 0x21  # present; and accessed
_LEAF = 0xA1  # read-only, supervisor, accessed, large
_PDPTE_MFNS = (1 << 40) - 1


class Result(NamedTuple):
    """What came of one access.

    error_code : of the page fault, None if the access was made
    cr2 : the address that faulted, 0 if the access was made
    value : the 8 bytes that a load brought; otherwise 0
    """

    error_code: int | None
    cr2: int
    value: int


def probe_paging(
    memory: np.ndarray, root_mfn: int, mode: str, probes: Sequence[tuple[int, str]]
) -> tuple[list[Result], np.ndarray]:
    """Return what each access comes to, and the memory afterwards.

    The accesses are made in order, each on an empty TLB. A load or a store is of the aligned 8 bytes around the
    address; a store writes its address. A fetch is of the last byte of the page, which is what a fault reports; it
    should be INT3 (`bochs_cpu.fill`, or a made-up frame), or one instruction from it on is executed.

    Parameters
    ----------
    memory : uint64[frames, 512], machine memory from frame 0; bochs_cpu.py has the other frames
    root_mfn : frame of the top table
    mode : "4-level" | "pae" | "2-level"
    probes : pairs (linear address, "read" | "write" | "execute"); canonical, below 4 GiB in 32-bit modes

    Raises
    ------
    ValueError : a PDPTE has reserved bits: MOV CR3 faults, there is nothing to probe
    """
    with _prepared(memory, root_mfn, mode, probes) as harness:
        harness.run(MODES[mode], nested=False)
    return [*map(Result._make, _outcomes(harness))], harness.memory


def reads_of(memory: np.ndarray, root_mfn: int, mode: str, addresses: Sequence[int]) -> list[list[Read]]:
    """Return the reads of entries that a load from each linear address takes, in order; PDPTEs are not read."""
    with _prepared(memory, root_mfn, mode, [(address, READ) for address in addresses]) as harness:
        harness.run(MODES[mode], nested=False, trace=True)
    return harness.reads()


def _prepared(memory: np.ndarray, root_mfn: int, mode: str, probes: Sequence[tuple[int, str]]) -> Harness:
    """Return a harness whose records make these accesses."""
    shift, count = _SLOTS[mode]
    harness = Harness(memory, probes)
    addresses = harness.addresses
    sign = addresses >> np.uint64(47)
    if not (np.isin(sign, (0, (1 << 17) - 1)) if mode == "4-level" else addresses >> np.uint64(32) == 0).all():
        raise ValueError("an address is not canonical, or not below 4 GiB")
    slots = addresses >> np.uint64(shift) & np.uint64(count - 1)
    for hidden, chosen in split_by_hidden(slots, last=count - 1):
        harness.records["cr3"][chosen] = _shadow_root(harness, root_mfn, mode, hidden) << FRAME_SHIFT
        base = hidden << shift
        base |= (2**64 - 2**48) * (base >> 47 & 1)
        harness.aim(chosen, MODES[mode], code=base + GUEST_CODE_OFFSET, operands=addresses[chosen])
    return harness


def _shadow_root(harness: Harness, root_mfn: int, mode: str, hidden: int) -> int:
    """Return the mfn of a top table in which the hidden entry, of it or of the next one, is a way to the harness."""
    leaf = HARNESS_MFNS.start << FRAME_SHIFT | _LEAF
    if mode == "2-level":
        root = harness.shadow(root_mfn, hidden, np.uint32)
        harness.table(root, np.uint32)[hidden] = leaf
    elif mode == "4-level":
        root = harness.shadow(root_mfn, hidden)
        pointers = harness.alloc(harness.alloc(leaf) << FRAME_SHIFT | _TABLE)
        harness.table(root)[hidden] = pointers << FRAME_SHIFT | _TABLE
    else:
        # A PDPTE has no accessed bit: nothing to carry back.
        root = harness.alloc(*harness.table(root_mfn).tolist())
        pointer, entry = divmod(hidden, 512)
        pdpte = int(harness.table(root)[pointer])
        directory = harness.shadow(pdpte >> FRAME_SHIFT & _PDPTE_MFNS, entry) if pdpte & _PRESENT else harness.alloc()
        harness.table(directory)[entry] = leaf
        harness.table(root)[pointer] = directory << FRAME_SHIFT | _PRESENT
    return root


def _outcomes(harness: Harness) -> list[tuple[int | None, int, int]]:
    """Return the fields of each record's `Result`."""
    records, accesses = harness.records, harness.accesses
    fetch = accesses == EXECUTE
    asked = np.where(fetch, records["rip"], records["address"])
    faults = harness.page_faults() & (records["qualification"] == asked)
    # A fetch that is made may end in anything.
    odd = ~faults & ~fetch & (records["reason"] != HLT_EXIT)
    if odd.any():
        raise RuntimeError(f"a probe ended in {records[odd][0]}")
    codes = [int(code) if fault else None for code, fault in zip(records["error"], faults, strict=True)]
    cr2 = np.where(faults, records["qualification"], 0).tolist()
    values = np.where(~faults & (accesses == READ), harness.values(), 0).tolist()
    return [*zip(codes, cr2, values, strict=True)]
