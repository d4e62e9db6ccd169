"""The digest of a machine: one number for all of its memory, and who holds it.

SHA-256 over the following, little endian, in this order:

    "twofold machine 1"
    frames of the machine                               8 bytes
    "arena", then for each page with a bit set          number, 4096 bytes; ascending
    "owner", "use", "m2p", each as its array's pages    in the same way
    "heap", then each free block, list by list          mfn (8 bytes), order (1 byte)

The arrays are those of the frame table and the M2P as they stand in memory (the M2P as its complement), cut into pages
of 4096 bytes, the last one filled up with zeros. A page that was never touched and one that is all zeros are the same.
The heap's lists are those of each zone in turn, order by order, head first: what the next allocation gets counts too.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.machine.arena import Arena
from twofold.machine.frames import M2P, FrameTable
from twofold.machine.heap import Heap
from twofold.units import FRAME_BYTES, FRAME_SHIFT

Words = npt.NDArray[np.uint64]
_STEP: Final = 1 << 10  # pages at a time: 4 MiB
_WORDS: Final = FRAME_BYTES // 8


def machine_digest(arena: Arena, frame_table: FrameTable, m2p: M2P, heap: Heap) -> str:
    """Return the SHA-256 of a machine's memory, frame table, M2P and heap, in hex."""
    digest = hashlib.sha256(b"twofold machine 1" + arena.frames.to_bytes(8, "little"))
    parts = (
        ("arena", _arena_pages(arena)),
        ("owner", _array_pages(frame_table.owner)),
        ("use", _array_pages(frame_table.use)),
        ("m2p", _array_pages(m2p.complement)),
    )
    for name, steps in parts:
        digest.update(name.encode())
        for first, pages in steps:
            for page in np.flatnonzero(pages.any(axis=1)).tolist():
                digest.update((first + page).to_bytes(8, "little"))
                digest.update(pages[page])
    mfns, orders = heap.lists()
    digest.update(b"heap")
    digest.update(np.rec.fromarrays([mfns, orders], dtype=[("mfn", "<u8"), ("order", "u1")]).tobytes())
    return digest.hexdigest()


def _arena_pages(arena: Arena) -> Iterator[tuple[int, Words]]:
    """Yield (first mfn, pages as words) of what was ever touched. Read from the file: the map would allocate holes."""
    for start, frames in arena.data_runs():
        for mfn in range(start, start + frames, _STEP):
            bytes_ = min(_STEP, start + frames - mfn) << FRAME_SHIFT
            yield mfn, np.frombuffer(_read(arena.fd, mfn << FRAME_SHIFT, bytes_), np.uint64).reshape(-1, _WORDS)


def _read(fd: int, offset: int, bytes_: int) -> bytearray:
    data = bytearray(bytes_)
    done = 0
    while done < bytes_:  # one call may give less than it was asked for
        done += os.preadv(fd, [memoryview(data)[done:]], offset + done)
    return data


def _array_pages(array: npt.NDArray[Any]) -> Iterator[tuple[int, Words]]:
    """Yield (number of the first page, pages as words) of an array."""
    per_page = FRAME_BYTES // array.itemsize
    for first in range(0, len(array), _STEP * per_page):
        part = array[first : first + _STEP * per_page]
        if len(part) % per_page:
            part = np.concatenate([part, np.zeros(-len(part) % per_page, array.dtype)])
        yield first // per_page, part.view(np.uint64).reshape(-1, _WORDS)
