"""QEMU as an independent walker of page tables: what qemu_svm.py and qemu_la57.py share.

The RAM of the emulated machine is the arena's own file, not a copy: what the walker sets in the tables under test is
in them afterwards. The file is made longer for the time of a run, and the harness stands behind the machine under
test, where none of its tables can lead::

    frames 0 .. arena.frames          the machine under test
    frames from arena.frames on       the harness: its own tables, lists of probes (`QemuMachine.alloc`)
    frames SHADOWED                   show the ROM: nothing under test may lead there

There is no firmware. The program of a harness (svm_probe.S, la57_probe.S) is the ROM that the CPU starts in, so
nobody else writes to the RAM. Its first words are settings, filled in for each run.

Every probe is one access of four bytes, or one instruction, at a multiple of 8. What is probed is filled with
`word_at`, which tells its own machine address when it is read, and when it is executed.
"""

import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

import oracle
from twofold.machine import Arena
from twofold.units import FRAME_BYTES, FRAME_SHIFT

Array = npt.NDArray[np.uint64]
ACCESSES = ("read", "write", "execute")
READ, WRITE, EXECUTE = range(3)

QEMU = "qemu-system-x86_64"
SHADOWED = range(0xF0, 0x100)
ROM_BASE, _ROM_BYTES = 0xFFFF0000, 0x10000
_FRAMES_BELOW_HOLE = 0xC0000  # 3 GiB of RAM stand in one piece; what is more comes above 4 GiB
_ALIGNMENT = 512  # one 2M leaf shows a guest the beginning of the harness
_FINISHED = 0x10 << 1 | 1  # what isa-debug-exit makes of the programs' last word
_TIMEOUT = 300  # [s]: ten thousand probes take half a second

# The same bytes in 32-bit and in 64-bit mode. The address is in AX, what is stored in SP: a VMCB has both, and so has
# the frame of an IRET. HLT ends every probe.
ROUTINES = bytes.fromhex("8b00 f4 90  8920 f4 90")  # movl (%rax),%eax; hlt; nop; movl %esp,(%rax); hlt; nop
LOAD, STORE = 0, 4
_MOV_EAX, _HLT = 0xB8, 0xF4


def missing() -> str | None:
    """Return why the oracle cannot run here, None if it can."""
    for tool in (QEMU, "gcc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


def require() -> None:
    """Skip the calling test if the oracle cannot run here; with TWOFOLD_REQUIRE_ORACLES=1, fail it."""
    oracle.require(missing())


def word_at(maddrs: Array) -> Array:
    """Return what a probed word holds: `movl $hash,%eax; hlt`, and more of the hash of its machine address."""
    hashes = maddrs * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(32)
    low, high = hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(48)
    return np.uint64(_MOV_EAX) | low << np.uint64(8) | np.uint64(_HLT << 40) | high << np.uint64(48)


def stored_dwords(numbers: Array) -> Array:
    """Return what probes with these numbers, below 2**24, store: still the beginning of `movl $number,%eax`."""
    return np.uint64(_MOV_EAX) | numbers << np.uint64(8)


def loaded(words: Array) -> Array:
    """Return what a load from words brings."""
    return words & np.uint64(0xFFFFFFFF)


def executed(words: Array) -> Array:
    """Return what words leave in EAX when they are executed."""
    return words >> np.uint64(8) & np.uint64(0xFFFFFFFF)


def stored(words: Array, dwords: Array) -> Array:
    """Return words after a store into them."""
    return words >> np.uint64(32) << np.uint64(32) | dwords


@functools.cache
def _rom(source: str) -> bytes:
    """Return an assembled program."""
    with tempfile.TemporaryDirectory(prefix="qemu-oracle-") as folder:
        result = Path(folder) / "rom.bin"
        flat = f"-Wl,--oformat=binary,-Ttext={ROM_BASE:#x},--build-id=none"
        command = ["gcc", "-m32", "-nostdlib", "-static", flat, "-o", result, Path(__file__).with_name(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"gcc cannot assemble {source}: {done.stderr}")
        image = result.read_bytes()
    if len(image) != _ROM_BYTES:
        raise RuntimeError(f"{source} makes a ROM of {len(image):#x} bytes")
    return image


class QemuMachine:
    """The arena as RAM, with frames of the harness behind it; a context manager, the frames are gone afterwards.

    Parameters
    ----------
    arena : the machine under test
    frames : what the harness needs at most [frames]
    """

    def __init__(self, arena: Arena, frames: int) -> None:
        self._arena = arena
        self._frames = -(-frames // 256) * 256  # QEMU counts in MiB
        if arena.frames % _ALIGNMENT or arena.frames + self._frames > _FRAMES_BELOW_HOLE:
            raise ValueError(f"a machine of {arena.frames:#x} frames is no multiple of 2M, or it is too large")
        self._bytes = (arena.frames + self._frames) * FRAME_BYTES
        self._used = 0

    def __enter__(self) -> Self:
        os.ftruncate(self._arena.fd, self._bytes)
        own = mmap.mmap(self._arena.fd, self._frames * FRAME_BYTES, offset=self._arena.frames * FRAME_BYTES)
        self._own = np.frombuffer(own, np.uint64).reshape(self._frames, -1)
        return self

    def __exit__(self, *exception: object) -> None:
        # The file ends before these pages from now on: to touch them would be fatal.
        del self._own
        os.ftruncate(self._arena.fd, self._arena.frames * FRAME_BYTES)

    @property
    def first(self) -> int:
        """The mfn of the harness's first frame."""
        return self._arena.frames

    def alloc(self, frames: int = 1) -> tuple[int, Array]:
        """Return the machine address of new frames of zeros, and the frames; no view may outlive the context."""
        start, self._used = self._used, self._used + frames
        if self._used > self._frames:
            raise ValueError(f"the harness has {self._frames} frames")
        return self.first + start << FRAME_SHIFT, self._own[start : self._used]

    def table(self, *entries: int) -> tuple[int, Array]:
        """Return the machine address of a new table, and the table, with its first entries."""
        maddr, frame = self.alloc()
        frame[0, : len(entries)] = entries
        return maddr, frame[0]

    def run(self, source: str, settings: Sequence[int]) -> None:
        """Let the CPU go through a program.

        Parameters
        ----------
        source : its file, beside this one
        settings : the 64-bit words that it begins with
        """
        words = np.array(settings, np.uint64).tobytes()
        with tempfile.NamedTemporaryFile(prefix="qemu-oracle-") as rom:
            rom.write(words + _rom(source)[len(words) :])
            rom.flush()
            fd, megabytes = self._arena.fd, self._bytes >> 20
            backend = f"memory-backend-file,id=ram,size={megabytes}M,share=on,reserve=off,mem-path=/proc/self/fd/{fd}"
            command = [QEMU, "-accel", "tcg", "-M", "microvm,memory-backend=ram", "-cpu", "max", "-object", backend]
            command += ["-m", f"{megabytes}M", "-bios", rom.name, "-nodefaults", "-display", "none", "-no-reboot"]
            command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
            done = subprocess.run(command, check=False, capture_output=True, pass_fds=[fd], timeout=_TIMEOUT)
        if done.returncode != _FINISHED:
            raise RuntimeError(f"QEMU stopped: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}")


def carry_back(table: Array, copy: Array, hidden: int) -> None:
    """Set in a table the bits that the walker set in a copy of it, in all entries but the harness's."""
    others = np.arange(len(table)) != hidden
    table[others] |= copy[others]
