"""The machine's memory as real bytes: one sparse memory file that holds every frame.

A memfd, so that other processes and engines can map it; mapped without reservation, so a machine of 1 TiB costs only
what it touches. Reading an untouched page through the map allocates it: walkers read only frames that are in use, and
`data_runs` finds what exists by SEEK_DATA.
"""

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import AddressError, SizeError
from twofold.machine.gate import Gate, look
from twofold.machine.journal import journaled
from twofold.units import FRAME_BYTES, FRAME_SHIFT, format_bytes

MAP_NORESERVE: Final = 0x4000  # Linux, x86; Python names it only from 3.13 on
_MAP_FIXED: Final = 0x10  # which Python has no use for


class Arena:
    """`frames * 4096` bytes of machine memory, seen as bytes and as tables."""

    def __init__(self, frames: int, gate: Gate | None = None) -> None:
        self.frames = frames
        self.gate = Gate("the arena") if gate is None else gate
        self.fd = os.memfd_create("twofold-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, frames * FRAME_BYTES)
            self._map = mmap.mmap(self.fd, frames * FRAME_BYTES, flags=mmap.MAP_SHARED | MAP_NORESERVE)
        except OSError as error:
            os.close(self.fd)
            asked = format_bytes(frames << FRAME_SHIFT)
            raise SizeError(asked, f"cannot be mapped on this host: {error.strerror or error}") from None
        # uint64[frames, 512]: every frame seen as a table. Dropped before the map is closed.
        self.tables: npt.NDArray[np.uint64] = np.frombuffer(self._map, np.uint64).reshape(frames, -1)
        # uint32[frames, 1024]: the same with entries of 32 bits.
        self.tables_32: npt.NDArray[np.uint32] = self.tables.view(np.uint32)
        # The same again entry by entry, for single reads: half the time of an array's.
        self.words, self.words_32 = memoryview(self._map).cast("Q"), memoryview(self._map).cast("I")
        self.gate.on_fork(self._keep_apart)

    def tables_of(self, dtype: npt.DTypeLike) -> npt.NDArray[np.uint64]:
        """Return the frames as tables with entries of this width, uint64 or uint32."""
        return self.tables if np.dtype(dtype) == np.uint64 else self.tables_32  # type: ignore[return-value]

    def words_of(self, dtype: npt.DTypeLike) -> "memoryview[int]":
        """Return the frames entry by entry, uint64 or uint32."""
        return self.words if np.dtype(dtype) == np.uint64 else self.words_32

    @property
    def address(self) -> int:
        """Where machine address 0 is mapped in this process; for engines that map the arena themselves."""
        return int(self.tables.ctypes.data)

    @look
    def read(self, maddr: int, bytes_: int) -> bytes:
        """Return bytes at a machine address."""
        self._check(maddr, bytes_)
        return self._map[maddr : maddr + bytes_]

    @journaled
    def write(self, maddr: int, data: bytes) -> None:
        """Store bytes at a machine address."""
        self._check(maddr, len(data))
        self._map[maddr : maddr + len(data)] = data

    def _check(self, maddr: int, bytes_: int) -> None:
        if maddr < 0 or maddr + bytes_ > self.frames << FRAME_SHIFT:
            raise AddressError("maddr", maddr, f"+ {bytes_} bytes reaches beyond the machine")

    def data_runs(self, mfn: int = 0, frames: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (mfn, frames) of each run that was ever touched and not discarded, within a range."""
        here = mfn << FRAME_SHIFT
        end = (self.frames if frames is None else mfn + frames) << FRAME_SHIFT
        while here < end:
            try:
                start = os.lseek(self.fd, here, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data from here on
                    return
                raise
            here = min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
            if start < here:
                yield start >> FRAME_SHIFT, (here - start) >> FRAME_SHIFT

    @look
    def discard(self, mfns: npt.NDArray[np.uint64], frames: npt.NDArray[np.uint64]) -> None:
        """Give the memory of runs of frames back to the host; they read as zero from now on.

        Costs what was touched: the runs are held against the pages that exist, not asked for one by one.
        """
        if not len(mfns):
            return
        order = np.argsort(mfns)
        starts = mfns[order].astype(np.int64)
        ends = starts + frames[order].astype(np.int64)
        for start, touched in self.data_runs(int(starts[0]), int(ends[-1] - starts[0])):
            run = int(np.searchsorted(ends, start, "right"))
            while run < len(starts) and starts[run] < start + touched:
                first, last = max(start, int(starts[run])), min(start + touched, int(ends[run]))
                self._map.madvise(mmap.MADV_REMOVE, first << FRAME_SHIFT, (last - first) << FRAME_SHIFT)
                run += 1

    @look
    def copy(self, mfns: npt.NDArray[np.uint64], frames: npt.NDArray[np.uint64], to_mfn: int) -> None:
        """Copy runs of frames, one after the other, to those from `to_mfn` on; what was never touched stays so."""
        here = to_mfn
        for mfn, length in zip(mfns.tolist(), frames.tolist(), strict=True):
            self.discard(np.array([here], np.uint64), np.array([length], np.uint64))
            for start, touched in self.data_runs(mfn, length):
                target = here + start - mfn
                self.tables[target : target + touched] = self.tables[start : start + touched]
            here += length

    def close(self) -> None:
        """Drop the views and give everything back to the host."""
        if self.fd < 0:
            return
        self.gate.close("is closed")
        self._drop()
        self.words.release()
        self.words_32.release()
        with contextlib.suppress(BufferError):  # a caller still holds a view: the map goes when the view does
            self._map.close()

    def _drop(self) -> None:
        self.tables, self.tables_32 = np.empty((0, 512), np.uint64), np.empty((0, 1024), np.uint32)
        fd, self.fd = self.fd, -1
        os.close(fd)

    def _keep_apart(self) -> None:
        """Let a child that was forked have no memory in common with its parent, whatever views of it are about.

        A private map of the same file takes the place of the shared one: what the child stores stays its own.
        """
        if self.fd < 0:
            return
        library, bytes_ = ctypes.CDLL(None), self.frames * FRAME_BYTES
        library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | MAP_NORESERVE
        library.mmap(self.address, bytes_, mmap.PROT_READ | mmap.PROT_WRITE, flags, self.fd, 0)
        self._drop()


def sparse_array(length: int, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    """Return a zeroed array that takes memory page by page as it is written.

    Unlike `np.zeros` it never asks for huge pages, which would cost 2 MiB at each first touch.
    """
    bytes_ = max(1, length * np.dtype(dtype).itemsize)
    memory = mmap.mmap(-1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return np.frombuffer(memory, dtype, length)
