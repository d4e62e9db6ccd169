"""The process that Bochs runs in: `python bochs_child.py JOB`, JOB being JSON that `bochs_cpu.Harness.run` makes.

bochscpu has one CPU to a process, cannot be unloaded, and crashes at the end of the interpreter. So it gets a process
of its own, which leaves by `os._exit`. All it shares with its parent is a file of memory; on standard output it
writes the accesses, if asked for them. It imports nothing large: a start takes as long as 5,000 probes.
"""

import ctypes
import json
import mmap
import os
import sys
from array import array

FRAME_BYTES = 4096
POOL_FRAMES = 256
# A frame as one number: its 512 words are made in one step (8 us, a list of them 60).
WORD_OFFSETS = int.from_bytes(array("Q", range(0, FRAME_BYTES, 8)).tobytes(), "little")
ONE_IN_EACH_WORD = int.from_bytes(array("Q", [1] * (FRAME_BYTES // 8)).tobytes(), "little")

# Long mode with VMX on and no interrupts. CR4: OSFXSR, OSXMMEXCPT, PAE, VMXE; EFER: LME, LMA, NXE.
CR0, CR4, EFER = 0x80050033, 0x2620, 0xD00
CODE_ATTRIBUTES, DATA_ATTRIBUTES, TASK_ATTRIBUTES = 0xA09B, 0xC093, 0x008B


class Pages:
    """Host memory for machine frames, given to Bochs when it first asks.

    Frames of the caller and of the harness are the file's. Any other frame is made up: each of its words holds
    `tag` | its own machine address.
    """

    def __init__(self, bochscpu, job: dict) -> None:
        self._insert = bochscpu.memory.page_insert
        self._file = mmap.mmap(job["memory_fd"], 0)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._file))
        self._frames = job["frames"]
        self._harness = range(job["harness_mfn"], job["harness_mfn"] + job["harness_frames"])
        self._tag = job["tag"]
        self._pools: list[mmap.mmap] = []
        self._used = POOL_FRAMES  # of the last pool

    def supply(self, maddr: int) -> None:
        mfn = maddr // FRAME_BYTES
        if mfn < self._frames:
            slot = mfn
        elif mfn in self._harness:
            slot = self._frames + mfn - self._harness.start
        else:
            self._insert(mfn * FRAME_BYTES, self._made_up(mfn))
            return
        self._insert(mfn * FRAME_BYTES, self._address + slot * FRAME_BYTES)

    def _made_up(self, mfn: int) -> int:
        if self._used == POOL_FRAMES:
            # Bochs keeps the address: no pool is ever freed.
            self._pools.append(mmap.mmap(-1, POOL_FRAMES * FRAME_BYTES))
            self._used = 0
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._pools[-1])) + self._used * FRAME_BYTES
        self._used += 1
        words = WORD_OFFSETS + (self._tag | mfn * FRAME_BYTES) * ONE_IN_EACH_WORD
        ctypes.memmove(start, words.to_bytes(FRAME_BYTES, "little"), FRAME_BYTES)
        return start


def start_state(bochscpu, session, job: dict):
    """Return the registers to start with: long mode, flat segments, %rdi the mailbox."""

    def segment(selector: int, attributes: int, limit: int = 0xFFFFFFFF):
        made = bochscpu.Segment()
        made.present, made.selector, made.base, made.limit, made.attr = True, selector, 0, limit, attributes
        return made

    state = session.cpu.state
    state.cr0, state.cr3, state.cr4, state.efer = CR0, job["cr3"], CR4, EFER
    state.rip, state.rdi, state.rsp, state.rflags = job["rip"], job["mailbox"], 0, 2
    state.cs = segment(8, CODE_ATTRIBUTES)
    for name in ("ss", "ds", "es", "fs", "gs"):
        setattr(state, name, segment(16, DATA_ATTRIBUTES))
    state.tr = segment(24, TASK_ATTRIBUTES, 0x67)
    return state


def main() -> None:
    job = json.loads(sys.argv[1])
    # Before the import: it resolves what the module lacks, and wins over what the module has.
    ctypes.CDLL(job["shim"], mode=ctypes.RTLD_GLOBAL)
    import bochscpu
    import bochscpu.memory

    bochscpu._bochscpu.bochscpu_log_set_level(0)
    session = bochscpu.Session()
    session.missing_page_handler = Pages(bochscpu, job).supply
    session.cpu.state = start_state(bochscpu, session, job)
    hook = bochscpu.Hook()
    hook.hlt = lambda session, _cpu: session.stop()
    # For each access a row: machine address, bytes, whether it is a write; for each VM exit a row of zeros.
    accesses = array("Q")
    if job["trace"]:
        hook.phy_access = lambda _session, _cpu, maddr, bytes_, _type, rw: accesses.extend((maddr, bytes_, rw))
        hook.vmexit = lambda _session, _cpu, _reason, _qualifier: accesses.extend((0, 0, 0))
    session.run([hook])
    sys.stdout.buffer.write(accesses.tobytes())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
