"""The exact free memory of a running Linux, from /proc/kpageflags (root only).

The file is one 64-bit word for each of the kernel's pages from address 0 on, which on x86 are frames of 4 KiB:

    bit 63 ............ 10 ............ 0
                        |
                        KPF_BUDDY: the frame stands in the buddy allocator's lists

The kernel sets the bit on every frame of a free block, not only on its first. It takes reads only in
multiples of 8 bytes, and a reader that asks otherwise gets nothing, which looks like "no free memory": so
`os.read` with a size of ours, and every kind of short answer is an error. The scan is no snapshot in time:
blocks that are taken or freed while it runs (half a second for 24 GiB) may appear as they were before or
after.
Left out: frames on per-CPU lists, which are free but in no block.
Source: Linux Documentation/admin-guide/mm/pagemap.rst.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from twofold.errors import HostError
from twofold.freemaps.fragmenter import Frames
from twofold.units import FRAME_BYTES, format_bytes

KPAGEFLAGS: Final = Path("/proc/kpageflags")
KPF_BUDDY: Final = np.uint64(10)  # bit number, from include/uapi/linux/kernel-page-flags.h
WORD_BYTES: Final = 8
CHUNK_BYTES: Final = 1 << 20
MEMFREE_TOLERANCE: Final = 0.02  # per-CPU lists and blocks that move during the scan stay below this share
ADVICE: Final = "run as root, or give a saved map (--host FILE) or make one up (--size 16GiB)"


class FreeRuns(NamedTuple):
    """Free runs of a host: first mfns, lengths [4 KiB frames], and the first mfn beyond its memory."""

    starts: Frames
    frames: Frames
    machine_frames: int


def read_kpageflags(path: Path = KPAGEFLAGS, at_least: int = 0, page_order: int = 0) -> FreeRuns:
    """Return the free runs that a kpageflags file describes.

    Parameters
    ----------
    path : the file, or a copy of one
    at_least : frames that the machine is known to have; fewer words are a short file [4 KiB frames]
    page_order : of the kernel's pages [log2 4 KiB frames]

    Raises
    ------
    HostError : the file cannot be read, is empty, short or no multiple of 8 bytes, or marks nothing as free
    """
    edges, total = _read_edges(path)
    edges, total = edges << np.uint64(page_order), total << page_order
    if total < max(at_least, 1):
        raise HostError(str(path), f"ended after {total} frames of {max(at_least, 1)}; {ADVICE}")
    if not edges.size:
        raise HostError(str(path), f"marks none of {total} frames as free, which no running host has; {ADVICE}")
    return FreeRuns(edges[0::2], edges[1::2] - edges[0::2], total)


def _read_edges(path: Path) -> tuple[Frames, int]:
    """Return the mfns where free memory begins and ends, in turn, and the number of words."""
    parts: list[npt.NDArray[np.int64]] = []
    total, is_free = 0, False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := os.read(descriptor, CHUNK_BYTES):
                free = _free_mask(chunk, path)
                parts.append(np.flatnonzero(np.diff(free, prepend=is_free)) + total)
                total, is_free = total + free.size, bool(free[-1])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(str(path), f"cannot be read ({error.strerror}); {ADVICE}") from error
    parts.append(np.full(int(is_free), total))  # a run that reaches the last frame ends there
    return np.concatenate(parts).astype(np.uint64), total


def _free_mask(chunk: bytes, path: Path) -> npt.NDArray[np.bool_]:
    """Return, for each word of a chunk, whether its frame is in a buddy list."""
    if len(chunk) % WORD_BYTES:
        raise HostError(str(path), f"gave {len(chunk)} bytes, which is no whole number of 8-byte words")
    words = np.frombuffer(chunk, dtype="<u8")
    return (words >> KPF_BUDDY & np.uint64(1)).astype(np.bool_)


def memfree_notes(free_frames: int, memfree_bytes: int) -> tuple[str, ...]:
    """Return a sentence when the buddy lists and MemFree differ by more than 2 %, otherwise nothing.

    Some kernels count memory in MemFree long before it reaches a list: page initialisation that is put off,
    or memory that a confidential guest has not accepted. Nothing can be allocated from it yet, and its layout
    is unknown.

    Parameters
    ----------
    free_frames : what the buddy lists hold [4 KiB frames]
    memfree_bytes : MemFree of /proc/meminfo [bytes]
    """
    listed = free_frames * FRAME_BYTES
    gap = memfree_bytes - listed
    if abs(gap) <= MEMFREE_TOLERANCE * memfree_bytes:
        return ()
    figures = f"MemFree is {format_bytes(memfree_bytes)}, the buddy lists hold {format_bytes(listed)}"
    if gap < 0:
        return (f"{figures}: the host gave memory out while the lists were read",)
    return (f"{figures}: {format_bytes(gap)} is not initialised or not accepted yet; left out",)
