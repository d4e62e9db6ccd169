"""Bochs as an independent walker of page tables: what the probes of bochs_ept.py and bochs_paging.py share.

`bochscpu` is the CPU of the Bochs emulator as a Python module: an Intel one with VMX and EPT. A `Harness` lays out a
file of memory, the caller's machine frames and then frames of its own; `run` starts a process (bochs_child.py) in
which the emulated CPU loops over a list of records (paging_probe.S), one VM entry and one access each. The file is
shared: what the walker sets, accessed and dirty bits and stores, is in it afterwards.

Machine memory as the emulated CPU sees it::

    frames 0 .. memory.shape[0]   the caller's: a copy, `memory` itself stays as it is
    HARNESS_MFNS                  the harness's own: code, lists, tables. Nothing under test may lead there
    frame 0xfee00                 the CPU's local APIC
    all others below 1 TiB        made up: each word is `made_up_word` of its own machine address

The guest's code has to be mapped by the tables under test. They stay as they are: the top one is copied (under PAE
the top two), and one entry of the copy, the hidden one, leads to the harness. Probes that would need the hidden
entry get a second copy with another one hidden. Accessed and dirty bits of the copies are carried back; a store or
a fetch that lands in such a table is not.

Read the head of paging_probe.S first.
"""

import atexit
import functools
import importlib.util
import json
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

import oracle

FRAME_BYTES = 4096
FRAME_SHIFT = 12
FRAME_WORDS = 512
PHYSICAL_BITS = 40  # of this CPU, and so of guest-physical addresses

# Below 4 GiB, where 32-bit guests reach, and above the memory of any test. 4 MiB-aligned: one large leaf of any
# format shows a guest the beginning.
HARNESS_MFNS = range(0xF0000, 0xFE000)
TAG = 0xCC << 56  # the last byte of a made-up frame is INT3

ACCESSES = READ, WRITE, EXECUTE = "read", "write", "execute"

# Frames of the harness: some with a purpose, those that `alloc` hands out, the records.
_KERNEL, _GUEST_CODE, _MAILBOX, _VMXON, _VMCS, _HOST_PML4, _HOST_PDPT, _FIRST_FREE = range(8)
_RECORDS = 64
_FIELDS_AT = 256  # in the mailbox's frame [bytes]

# Of paging_probe.S: offsets of the routines in the guest's page, the last status.
_LOAD_64, _STORE_64, _LOAD_32, _STORE_32 = 0x00, 0x20, 0x40, 0x60
_FINISHED = 5

RECORD = np.dtype(
    [(name, "<u8") for name in ("pte_at", "pte", "eptp", "cr3", "rip", "address", "value", "controls")]
    + [(name, "<u8") for name in ("reason", "qualification", "gpa", "rax", "rdx", "event", "error", "linear")]
)
HLT_EXIT = 12
_ENTRY_FAILURE = np.uint64(1 << 31)
_EVENT_VALID, _BREAKPOINT, _PAGE_FAULT = 1 << 31, 3, 14

# Primary controls: those that must be 1; HLT exits; there are secondary ones. A fetch is stepped: the guest
# leaves after one instruction, whatever it was.
_CONTROLS = 0x0401E172 | 1 << 7 | 1 << 31
_STEP = 1 << 27
_NOWHERE = np.uint64(1 << 62)
_TIMEOUT = 600  # [s]: a million probes take 15
GUEST_PDPTE0 = 0x280A  # VMCS encoding; the other three follow in steps of 2


class Mode(NamedTuple):
    """How a guest pages: its control registers, its code segment, its routines."""

    cr4: int
    efer: int
    code_attributes: int
    load: int
    store: int


# CR4: VMXE, as everywhere here, and PAE or PSE. EFER: LME, LMA, NXE.
MODES = {
    "4-level": Mode(0x2020, 0xD00, 0xA09B, _LOAD_64, _STORE_64),
    "pae": Mode(0x2020, 0x800, 0xC09B, _LOAD_32, _STORE_32),
    "2-level": Mode(0x2010, 0, 0xC09B, _LOAD_32, _STORE_32),
}


class Read(NamedTuple):
    """One read that a walker made: the machine address of the entry and its size."""

    maddr: int
    bytes_: int


class _Shadow(NamedTuple):
    """A table that a copy stands in for, and the entry that the copy has of its own."""

    mfn: int
    hidden: int
    entry_type: type[np.unsignedinteger]


def missing() -> str | None:
    """Return why the oracle cannot run here, None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "bochscpu-python comes for Linux on x86-64"
    if shutil.which("gcc") is None:
        return "gcc is not installed: it makes the shim and the probes of bochscpu"
    if importlib.util.find_spec("bochscpu") is None:
        return "bochscpu-python is not installed"
    return None


def require() -> None:
    """Skip the calling test if the oracle cannot run here; with TWOFOLD_REQUIRE_ORACLES=1, fail it."""
    oracle.require(missing())


def made_up_word(maddr: int) -> int:
    """Return what a frame that nobody has given holds at a machine address, a multiple of 8."""
    return TAG | maddr


def fill(memory: np.ndarray, mfns: Iterable[int]) -> None:
    """Give frames of `memory` the content of made-up ones: a load tells where it landed, a fetch stops there."""
    frames = np.fromiter(mfns, np.int64)
    offsets = np.arange(0, FRAME_BYTES, 8, dtype=np.uint64)
    memory[frames] = np.uint64(TAG) | (frames.astype(np.uint64)[:, None] << np.uint64(FRAME_SHIFT)) | offsets


def harness_maddr(index: int) -> int:
    """Return the machine address of one of the harness's frames."""
    return HARNESS_MFNS[index] << FRAME_SHIFT


GUEST_CODE_OFFSET = _GUEST_CODE << FRAME_SHIFT  # from the first of HARNESS_MFNS
_SPARE_WORD = harness_maddr(_MAILBOX + 1) - 8  # for records that have no PTE to set


def split_by_hidden(slots: np.ndarray, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Return (entry of the top table to hide, probes that can do without it) for the slot that each probe needs."""
    for hidden, chosen in ((last, slots != last), (0, slots == last)):
        if chosen.any():
            yield hidden, chosen


@functools.cache
def _built() -> tuple[Path, bytes]:
    """Return the compiled shim and the assembled probes."""
    folder = Path(tempfile.mkdtemp(prefix="bochs-oracle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    here = Path(__file__).parent
    shim, probe = folder / "shim.so", folder / "probe.bin"
    assembler = ["-nostdlib", "-static", "-x", "assembler", "-Wl,--oformat=binary,-Ttext=0"]
    for options, result, source in (
        (["-std=c17", "-shared", "-fPIC", "-O1"], shim, here / "bochs_shim.c"),
        (assembler, probe, here / "paging_probe.S"),
    ):
        done = subprocess.run(["gcc", *options, "-o", result, source], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"gcc cannot make {result.name}: {done.stderr}")
    return shim, probe.read_bytes()


class Harness:
    """Machine memory and the list of probes for one run; a context manager, `memory` outlives it.

    Parameters
    ----------
    memory : uint64[frames, 512], the caller's machine frames
    probes : pairs (address, one of ACCESSES); a store writes its address
    """

    def __init__(self, memory: np.ndarray, probes: Sequence[tuple[int, str]]) -> None:
        if memory.dtype != np.uint64 or memory.shape[1:] != (FRAME_WORDS,):
            raise ValueError("memory is not uint64[frames, 512]")
        self._frames = len(memory)
        self._own_frames = _RECORDS + -(-len(probes) * RECORD.itemsize // FRAME_BYTES)
        if self._frames > HARNESS_MFNS.start or self._own_frames > len(HARNESS_MFNS):
            raise ValueError(f"no room for {self._frames} frames and {len(probes)} probes")
        self.addresses = np.array([address for address, _ in probes], np.uint64)
        self.accesses = np.array([access for _, access in probes])
        if not np.isin(self.accesses, ACCESSES).all():
            raise ValueError(f"an access is none of {ACCESSES}")
        self._fd = os.memfd_create("machine")
        os.ftruncate(self._fd, (self._frames + self._own_frames) * FRAME_BYTES)
        self._all = np.frombuffer(mmap.mmap(self._fd, 0), np.uint64).reshape(-1, FRAME_WORDS)
        # Frames of zeros stay holes of the file.
        np.copyto(self.memory, memory, where=memory.any(axis=1, keepdims=True))
        self._next = _FIRST_FREE
        self._shadows: dict[int, _Shadow] = {}
        self.records = self._all[self._frames + _RECORDS :].reshape(-1).view(RECORD)[: len(probes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    @property
    def memory(self) -> np.ndarray:
        """The caller's frames, as the emulated CPU sees and changes them."""
        return self._all[: self._frames]

    def table(self, mfn: int, entry_type: type[np.unsignedinteger] = np.uint64) -> np.ndarray:
        """Return one frame, the caller's or the harness's, as a table."""
        position = self._frames + mfn - HARNESS_MFNS.start if mfn in HARNESS_MFNS else mfn
        if not 0 <= position < len(self._all):
            raise ValueError(f"a top table is not in memory: mfn {mfn:#x}")
        return self._all[position].view(entry_type)

    def alloc(self, *entries: int) -> int:
        """Return the mfn of a new table of the harness, with its first entries."""
        self._next += 1
        mfn = HARNESS_MFNS[self._next - 1]
        self.table(mfn)[: len(entries)] = entries
        return mfn

    def shadow(self, mfn: int, hidden: int, entry_type: type[np.unsignedinteger] = np.uint64) -> int:
        """Return the mfn of a copy of a table, one of whose entries becomes the harness's."""
        copy = self.alloc(*self.table(mfn).tolist())
        self._shadows[copy] = _Shadow(mfn, hidden, entry_type)
        return copy

    def aim(self, chosen: np.ndarray, mode: Mode, *, code: int, operands: np.ndarray) -> None:
        """Set what the guest does in the chosen probes.

        A load or a store is of the aligned 8 bytes around its operand. A fetch is of the last byte of its operand's
        page, so that few instructions can follow from it, and those without an operand in memory: all registers
        that one byte can address through lead nowhere.

        Parameters
        ----------
        chosen : bool[probes]
        mode : how the guest pages
        code : linear address of the guest's code page
        operands : uint64[chosen], linear addresses
        """
        records, accesses = self.records, self.accesses[chosen]
        fetch = accesses == EXECUTE
        routine = np.uint64(code) + np.where(accesses == READ, mode.load, mode.store).astype(np.uint64)
        records["rip"][chosen] = np.where(fetch, operands | np.uint64(FRAME_BYTES - 1), routine)
        records["address"][chosen] = np.where(fetch, _NOWHERE, operands & np.uint64(2**64 - 8))
        records["value"][chosen] = np.where(fetch, _NOWHERE, self.addresses[chosen])
        records["controls"][chosen] = np.where(fetch, _CONTROLS | _STEP, _CONTROLS)

    def run(self, mode: Mode, *, nested: bool, fields: dict[int, int] | None = None, trace: bool = False) -> None:
        """Let the CPU go through the records.

        Parameters
        ----------
        mode : how the guest pages
        nested : whether EPT is on
        fields : VMCS fields beside those that all runs have
        trace : whether reads are recorded, for `reads` (slow)
        """
        shim, kernel = _built()
        self._all[self._frames :].reshape(-1)[: len(kernel) // 8] = np.frombuffer(kernel, np.uint64)
        # The host's tables: the GiB that the harness is in, one to one.
        gib = HARNESS_MFNS.start >> 18
        self.table(HARNESS_MFNS[_HOST_PML4])[0] = harness_maddr(_HOST_PDPT) | 0x63
        self.table(HARNESS_MFNS[_HOST_PDPT])[gib] = gib << 30 | 0xE3
        # A VMXON region and a VMCS begin with the revision of this CPU's format.
        self.table(HARNESS_MFNS[_VMXON])[0] = self.table(HARNESS_MFNS[_VMCS])[0] = 0x2B
        self.records["pte_at"][self.records["pte_at"] == 0] = _SPARE_WORD
        all_fields = _vmcs_fields(mode, nested=nested) | (fields or {})
        pairs = np.array([*all_fields.items()], np.uint64).reshape(-1)
        mailbox = self.table(HARNESS_MFNS[_MAILBOX])
        mailbox[_FIELDS_AT // 8 :][: len(pairs)] = pairs
        mailbox[:4] = len(all_fields), harness_maddr(_MAILBOX) + _FIELDS_AT, len(self.records), harness_maddr(_RECORDS)
        mailbox[4:6] = harness_maddr(_VMXON), harness_maddr(_VMCS)
        job = {"shim": str(shim), "memory_fd": self._fd, "trace": trace, "tag": TAG}
        job |= {"frames": self._frames, "harness_mfn": HARNESS_MFNS.start, "harness_frames": self._own_frames}
        job |= {"cr3": harness_maddr(_HOST_PML4), "rip": harness_maddr(_KERNEL), "mailbox": harness_maddr(_MAILBOX)}
        child = [sys.executable, "-I", str(Path(__file__).with_name("bochs_child.py")), json.dumps(job)]
        done = subprocess.run(child, check=False, capture_output=True, pass_fds=[self._fd], timeout=_TIMEOUT)
        if done.returncode or mailbox[6] != _FINISHED:
            raise RuntimeError(
                f"Bochs stopped: exit code {done.returncode}, status {mailbox[6]}, detail {mailbox[7]:#x}\n"
                + done.stderr.decode(errors="replace")[-2000:]
            )
        if (refused := np.flatnonzero(self.records["reason"] & _ENTRY_FAILURE)).size:
            record = self.records[refused[0]]
            raise ValueError(
                f"the CPU refuses this guest: exit reason {record['reason']:#x}, "
                f"qualification {record['qualification']:#x} (2: a PDPTE has reserved bits)"
            )
        self._carry_back()
        self._accesses = np.frombuffer(done.stdout, np.uint64).reshape(-1, 3)

    def _carry_back(self) -> None:
        """Set in the shadowed tables the bits that the walker set in their copies."""
        for copy, shadow in self._shadows.items():
            entries = self.table(copy, shadow.entry_type).copy()
            entries[shadow.hidden] = 0
            self.table(shadow.mfn, shadow.entry_type)[:] |= entries

    def page_faults(self) -> np.ndarray:
        """Return which records ended in a page fault of the guest, bool[probes]."""
        return self._ended_in(_PAGE_FAULT)

    def breakpoints(self) -> np.ndarray:
        """Return which records ended in INT3, bool[probes]."""
        return self._ended_in(_BREAKPOINT)

    def _ended_in(self, vector: int) -> np.ndarray:
        events = self.records["event"] & np.uint64(_EVENT_VALID | 0xFF)
        return (self.records["reason"] == 0) & (events == _EVENT_VALID | vector)

    def values(self) -> np.ndarray:
        """Return the words that loads brought, uint64[probes]; meaningless for other records."""
        return self.records["rdx"] << np.uint64(32) | self.records["rax"] & np.uint64(0xFFFFFFFF)

    def reads(self) -> list[list[Read]]:
        """Return the reads of each probe that are outside of the harness, in order; those of copies as of tables."""
        walks: list[list[Read]] = []
        walk: list[Read] = []
        for maddr, bytes_, access in self._accesses.tolist():
            if not bytes_:  # a VM exit
                walks.append(walk)
                walk = []
                continue
            mfn, offset = divmod(maddr, FRAME_BYTES)
            if mfn in HARNESS_MFNS:
                shadow = self._shadows.get(mfn)
                if shadow is None or offset // shadow.entry_type().itemsize == shadow.hidden:
                    continue
                mfn = shadow.mfn
            if access == 0:
                walk.append(Read(mfn * FRAME_BYTES + offset, bytes_))
        return walks


def _vmcs_fields(mode: Mode, *, nested: bool) -> dict[int, int]:
    """Return the VMCS fields that all probes have in common: encoding (Intel SDM vol. 3, appendix B) to value."""
    unusable = 0x10000
    # A 32-bit guest reaches memory through FS only: DS, ES and GS are unusable, SS ends after a byte.
    attributes = {"cs": mode.code_attributes, "ss": 0x4093, "fs": 0xC093, "tr": 0x8B}
    limits = {"cs": 0xFFFFFFFF, "fs": 0xFFFFFFFF, "tr": 0x67}
    fields: dict[int, int] = {}
    for position, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")):
        selector = {"cs": 8, "ldtr": 0, "tr": 24}.get(name, 16)
        fields[0x0800 + 2 * position] = selector
        fields[0x4800 + 2 * position] = limits.get(name, 0)
        fields[0x4814 + 2 * position] = attributes.get(name, unusable)
        fields[0x6806 + 2 * position] = 0
        if name != "ldtr":  # the host's selectors have no LDTR
            fields[0x0C00 + 2 * min(position, 6)] = selector
    # Masks, counts, interrupt state, debug and SYSENTER registers, bases of descriptor tables.
    zeros = (0x2802, 0x4006, 0x4008, 0x400A, 0x400E, 0x4010, 0x4014, 0x4016, 0x4810, 0x4812, 0x4824, 0x4826, 0x482A)
    zeros += (0x4C00, 0x6000, 0x6002, 0x6004, 0x6006, 0x6816, 0x6818, 0x681C, 0x6822, 0x6824, 0x6826)
    zeros += (0x6C06, 0x6C08, 0x6C0A, 0x6C0C, 0x6C0E, 0x6C10, 0x6C12)
    long_mode = mode.efer >> 10 & 1
    return (
        fields
        | dict.fromkeys(zeros, 0)
        | {
            0x2800: 2**64 - 1,  # VMCS link: none
            0x2806: mode.efer,
            0x2C02: 0xD00,  # host EFER
            0x4000: 0x16,  # pin-based controls: those that must be 1
            0x4004: 0xFFFFFFFF,  # every exception exits
            0x400C: 0x36DFF | 1 << 9 | 3 << 20,  # an exit leads to long mode; saves and loads EFER
            0x4012: 0x11FF | long_mode << 9 | 1 << 15,  # an entry loads EFER
            0x401E: nested << 1,  # secondary controls: EPT
            0x6800: 0x80010031,  # guest CR0: PG, WP, NE, ET, PE
            0x6804: mode.cr4,
            0x681A: 0x400,  # DR7
            0x6820: 2,  # RFLAGS
            0x6C00: 0x80050033,  # host CR0
            0x6C02: harness_maddr(_HOST_PML4),
            0x6C04: 0x2620,  # host CR4
        }
    )
