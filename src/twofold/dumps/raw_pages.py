"""Raw page-table pages in a file: all that is known of tables that somebody read out of a machine's memory.

An .npz with `mfn` uint64[n], `level` uint8[n] (1 is the table of 4K leaves, the highest the root) and `pages`
uint8[n, 4096], or the same bytes as uint64[n, 512] or uint32[n, 1024]. Without `level` the root has to be named;
without `mfn`, as in an array of tables (`table_array`), row n is frame n. Packed pages cannot be read in parts: they
are unpacked whole, when this machine has room for them. Many that are not packed stay in the file.
"""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.dumps.npz import (
    Column,
    Rows,
    column_of,
    first_member,
    locate_in_npy,
    locate_rows,
    member_names,
    read_columns,
)
from twofold.dumps.source import MAX_FRAMES, BoundedReader, Dump, DumpRoot, StoredPages
from twofold.errors import FormatError
from twofold.files import open_regular
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, format_bytes

Array = npt.NDArray[np.uint64]
FILE_NAME: Final = "npt_pages.npz"  # in a folder
_COLUMNS: Final = {"mfn": Column(np.uint64), "level": Column(np.uint8)}
PAGE_KINDS: Final = (
    Column(np.uint8, (FRAME_BYTES,)),
    Column(np.uint64, (FRAME_BYTES // 8,)),
    Column(np.uint32, (FRAME_BYTES // 4,)),
)
_NO_PAGES: Final = np.zeros((0, FRAME_BYTES), np.uint8)
_IN_PLACE: Final = 64 << 20  # bytes of pages from which on they are read in the file, without the checksum of all
_LEVELS: Final = range(2, 6)


class RawPagesReader(BoundedReader):
    """Opens raw page-table pages."""

    name = "raw-pages"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as an .npz of these arrays does."""
        return first_member(start) in {*_COLUMNS, "pages"}

    def open_within(self, path: Path, limit: MemoryLimit) -> Dump:
        """Return the pages, and the one root that they have, where they say their levels."""
        names = member_names(path)
        if "mfn" not in names and "pages" in names:
            return open_rows(path, "pages", limit)
        wanted = {name: column for name, column in _COLUMNS.items() if name in {"mfn", *names}}
        columns: dict[str, Any] = read_columns(path, wanted, limit)
        if not len(columns["mfn"]):
            raise FormatError(path, "holds no page")
        place, whole = pages_of(path, "pages", limit)
        root = (_root(path, columns["mfn"], columns["level"]),) if "level" in names else ()
        if place is not None:
            in_file = PagesInFile(path, columns["mfn"], place)
            return Dump(in_file, int(in_file.mfns[-1]) + 1, root, in_file.mfns, release=in_file.close)
        pages = stored_pages(path, columns["mfn"], whole, MAX_FRAMES, limit)
        return Dump(pages, int(pages.mfns[-1]) + 1, root, pages.mfns)


def pages_of(path: Path, name: str, limit: MemoryLimit) -> tuple[Rows | None, npt.NDArray[np.uint8]]:
    """Return where the pages of an .npz stand, when they are many and not packed; else the pages themselves."""
    column = column_of(path, name, PAGE_KINDS)
    place = locate_rows(path, name, column)
    if place is not None and place.rows * FRAME_BYTES >= _IN_PLACE:
        return place, _NO_PAGES
    pages: npt.NDArray[Any] = read_columns(path, {name: column}, limit)[name]
    return None, pages.view(np.uint8).reshape(-1, FRAME_BYTES)


def open_rows(path: Path, name: str | None, limit: MemoryLimit) -> Dump:
    """Return memory of which every frame is a row: of an array of an .npz by its name, or of an .npy file.

    Raises
    ------
    FormatError : it is no such array
    """
    if name is None:
        place: Rows | None = locate_in_npy(path, PAGE_KINDS)
    else:
        place, pages = pages_of(path, name, limit)
    if place is None:
        return Dump(StoredPages(np.arange(len(pages), dtype=np.uint64), pages), len(pages))
    rows = RowsInFile(path, place)
    return Dump(rows, place.rows, release=rows.close)


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


class RowsInFile:
    """Frames from 0 on that stay in their file, as a source."""

    def __init__(self, path: Path, place: Rows) -> None:
        self._path, self._place = path, place
        self._file = open_regular(path, buffering=0)

    def read(self, mfn: int) -> bytes | None:
        """Return a frame, None for one beyond the last."""
        return read_row(self._path, self._file.fileno(), self._place, mfn, mfn) if mfn < self._place.rows else None

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()


def read_row(path: Path, file: int, place: Rows, row: int, mfn: int) -> bytes:
    """Return the page of a row of an open file."""
    where = place.offset + row * FRAME_BYTES
    content = os.pread(file, FRAME_BYTES, where)
    if len(content) != FRAME_BYTES:
        raise FormatError(path, f"ends inside the page of mfn {mfn:#x}", offset=where)
    return content


class PagesInFile:
    """Pages that stay in their file, as a source. mfns : of all, ascending."""

    def __init__(self, path: Path, mfns: Array, place: Rows) -> None:
        self._rows = _ascending(path, mfns, place.rows, MAX_FRAMES)
        self.mfns = mfns[self._rows]
        self._path, self._place = path, place
        self._file = open_regular(path, buffering=0)

    def read(self, mfn: int) -> bytes | None:
        """Return a page, None for a frame that is not among them."""
        place = int(np.searchsorted(self.mfns, np.uint64(mfn)))
        if place == len(self.mfns) or int(self.mfns[place]) != mfn:
            return None
        return read_row(self._path, self._file.fileno(), self._place, int(self._rows[place]), mfn)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()


def stored_pages(path: Path, mfns: Array, pages: npt.NDArray[np.uint8], end: int, limit: MemoryLimit) -> StoredPages:
    """Return pages in ascending order, of frames below `end`.

    Raises
    ------
    FormatError : another number of pages, a frame twice, or one beyond the limit
    """
    order = _ascending(path, mfns, len(pages), end)
    if (order[1:] > order[:-1]).all():
        return StoredPages(mfns, pages)  # in order already: no copy
    limit.claim(path, pages.nbytes)
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
