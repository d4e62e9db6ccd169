r"""The digest of a machine: one number for its memory, who holds it, and whatever else decides what happens next.

SHA-256 over "twofold machine 2\n" and then fields, one after the other. A field has a name and is one of

    text, whole numbers     name "=" value "\n"                 numbers in decimal, a "," between two; None is nothing
    an array                name "[" elements "]\n", then for each page with a bit set: its number, 4096 bytes
                            (ascending); 8 bytes of ones           numbers have 8 bytes, little endian

An array is taken as it stands in memory, little endian, cut into pages of 4096 bytes, the last one filled up with
zeros. A page that was never touched and one that is all zeros are the same. The arena is an array of frames.

Each object of a machine contributes its own fields (`digest_fields`), so that no room has to know those above: the
machine's, its ledger's, then domain by domain, ascending. Left out is what tells and does not decide: counters, names,
caches, and who listens. `docs/journal.md` lists all fields.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.machine.arena import Arena
from twofold.units import FRAME_BYTES, FRAME_SHIFT

Words = npt.NDArray[np.uint64]
Value = str | int | list[int] | tuple[int, ...] | npt.NDArray[Any] | Arena | None
Field = tuple[str, Value]
_BEGIN: Final = b"twofold machine 2\n"
_END_OF_ARRAY: Final = b"\xff" * 8
_STEP: Final = 1 << 10  # pages at a time: 4 MiB
_WORDS: Final = FRAME_BYTES // 8


def machine_digest(fields: Iterable[Field]) -> str:
    """Return the SHA-256 of fields, in hex."""
    digest = hashlib.sha256(_BEGIN)
    for name, value in fields:
        if isinstance(value, Arena | np.ndarray):
            length = value.frames if isinstance(value, Arena) else len(value)
            digest.update(f"{name}[{length}]\n".encode())
            steps = _arena_pages(value) if isinstance(value, Arena) else _array_pages(value)
            for first, pages in steps:
                for page in np.flatnonzero(pages.any(axis=1)).tolist():
                    digest.update((first + page).to_bytes(8, "little"))
                    digest.update(pages[page])
            digest.update(_END_OF_ARRAY)
        else:
            digest.update(f"{name}={_as_text(value)}\n".encode())
    return digest.hexdigest()


def _as_text(value: str | int | list[int] | tuple[int, ...] | None) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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
