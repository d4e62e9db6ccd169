"""Raw page-table pages in a file: all that is known of tables that somebody read out of a machine's memory.

An .npz with `mfn` uint64[n], `level` uint8[n] (1 is the table of 4K leaves, the highest the root) and `pages`
uint8[n, 4096]. Packed pages cannot be read in parts: they are unpacked whole, when this machine has room for them.
Many that are not packed stay in the file.
"""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.dumps.npz import Column, Rows, first_member, locate_rows, read_columns
from twofold.dumps.source import MAX_FRAMES, Dump, DumpRoot, StoredPages
from twofold.errors import FormatError
from twofold.units import FRAME_BYTES, format_bytes

Array = npt.NDArray[np.uint64]
FILE_NAME: Final = "npt_pages.npz"  # in a folder
_COLUMNS: Final = {"mfn": Column(np.uint64), "level": Column(np.uint8)}
_PAGES: Final = Column(np.uint8, (FRAME_BYTES,))
_IN_PLACE: Final = 64 << 20  # bytes of pages from which on they are read in the file, without the checksum of all
_LEVELS: Final = range(2, 6)


class RawPagesReader:
    """Opens raw page-table pages."""

    name = "raw-pages"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as an .npz of these arrays does."""
        return first_member(start) in {*_COLUMNS, "pages"}

    def open(self, path: Path) -> Dump:
        """Return the pages, and the one root that they have."""
        columns: dict[str, Any] = read_columns(path, _COLUMNS)
        place = locate_rows(path, "pages", _PAGES)
        if place is not None and place.rows * FRAME_BYTES < _IN_PLACE:
            place = None
        whole: dict[str, Any] = {} if place else read_columns(path, {"pages": _PAGES})
        root = _root(path, columns["mfn"], columns["level"])
        if place is not None:
            in_file = PagesInFile(path, columns["mfn"], place)
            return Dump(in_file, int(in_file.mfns[-1]) + 1, (root,), in_file.mfns, release=in_file.close)
        pages = stored_pages(path, columns["mfn"], whole["pages"], MAX_FRAMES)
        return Dump(pages, int(pages.mfns[-1]) + 1, (root,), pages.mfns)


def _root(path: Path, mfns: Array, levels: npt.NDArray[np.uint8]) -> DumpRoot:
    """Return the one table of the highest level."""
    if len(levels) != len(mfns) or not len(mfns):
        raise FormatError(path, f"has {len(levels)} levels for {len(mfns)} pages")
    top = int(levels.max())
    if top not in _LEVELS:
        raise FormatError(path, f"has a table of level {top}: the root is of level 2 to 5")
    roots = mfns[levels == top]
    if len(roots) != 1:
        raise FormatError(path, f"has {len(roots)} tables of level {top}, and a P2M has one root")
    return DumpRoot(int(roots[0]), levels=top)


class PagesInFile:
    """Pages that stay in their file, as a source. mfns : of all, ascending."""

    def __init__(self, path: Path, mfns: Array, place: Rows) -> None:
        self._rows = _ascending(path, mfns, place.rows, MAX_FRAMES)
        self.mfns = mfns[self._rows]
        self._path, self._offset = path, place.offset
        self._file = path.open("rb", buffering=0)

    def read(self, mfn: int) -> bytes | None:
        """Return a page, None for a frame that is not among them."""
        place = int(np.searchsorted(self.mfns, np.uint64(mfn)))
        if place == len(self.mfns) or int(self.mfns[place]) != mfn:
            return None
        where = self._offset + int(self._rows[place]) * FRAME_BYTES
        content = os.pread(self._file.fileno(), FRAME_BYTES, where)
        if len(content) != FRAME_BYTES:
            raise FormatError(self._path, f"ends inside the page of mfn {mfn:#x}", offset=where)
        return content

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()


def stored_pages(path: Path, mfns: Array, pages: npt.NDArray[np.uint8], limit: int) -> StoredPages:
    """Return pages in ascending order, of frames below `limit`.

    Raises
    ------
    FormatError : another number of pages, a frame twice, or one beyond the limit
    """
    order = _ascending(path, mfns, len(pages), limit)
    if (order[1:] > order[:-1]).all():
        return StoredPages(mfns, pages)  # in order already: no copy
    return StoredPages(mfns[order], pages[order])


def _ascending(path: Path, mfns: Array, pages: int, limit: int) -> npt.NDArray[np.intp]:
    """Return the rows of `pages` pages by ascending frame, all of them checked."""
    if len(mfns) != pages:
        raise FormatError(path, f"has {pages} pages for {len(mfns)} mfns")
    order = np.argsort(mfns, kind="stable")
    check_ascending(path, mfns[order], limit)
    return order


def check_ascending(path: Path, mfns: Array, limit: int) -> None:
    """Raise unless frames are ascending, apart from each other and below a limit."""
    if (mfns[1:] < mfns[:-1]).any():
        raise FormatError(path, "has tables that are not in ascending order")
    twice = np.flatnonzero(mfns[1:] == mfns[:-1])
    if len(twice):
        raise FormatError(path, f"holds mfn {int(mfns[twice[0]]):#x} twice")
    if len(mfns) and int(mfns[-1]) >= limit:
        at = format_bytes(limit * FRAME_BYTES)
        raise FormatError(path, f"has a table at mfn {int(mfns[-1]):#x}, beyond {at}, the most that is read")
