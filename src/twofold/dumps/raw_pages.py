"""Raw page-table pages in a file: all that is known of tables that somebody read out of a machine's memory.

An .npz with `mfn` uint64[n], `level` uint8[n] (1 is the table of 4K leaves, the highest the root) and `pages`
uint8[n, 4096]. An .npz cannot be read in parts: it is unpacked whole, when this machine has room for it.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.dumps.npz import Column, first_member, read_columns
from twofold.dumps.source import MAX_FRAMES, Dump, DumpRoot, StoredPages
from twofold.errors import FormatError
from twofold.units import FRAME_BYTES, format_bytes

Array = npt.NDArray[np.uint64]
FILE_NAME: Final = "npt_pages.npz"  # in a folder
_COLUMNS: Final = {"mfn": Column(np.uint64), "level": Column(np.uint8), "pages": Column(np.uint8, (FRAME_BYTES,))}
_LEVELS: Final = range(2, 6)


class RawPagesReader:
    """Opens raw page-table pages."""

    name = "raw-pages"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as an .npz of these arrays does."""
        return first_member(start) in _COLUMNS

    def open(self, path: Path) -> Dump:
        """Return the pages, and the one root that they have."""
        columns: dict[str, Any] = read_columns(path, _COLUMNS)
        mfns, levels = columns["mfn"], columns["level"]
        if len(levels) != len(mfns) or not len(mfns):
            raise FormatError(path, f"has {len(levels)} levels for {len(mfns)} pages")
        top = int(levels.max())
        if top not in _LEVELS:
            raise FormatError(path, f"has a table of level {top}: the root is of level 2 to 5")
        roots = mfns[levels == top]
        if len(roots) != 1:
            raise FormatError(path, f"has {len(roots)} tables of level {top}, and a P2M has one root")
        pages = stored_pages(path, mfns, columns["pages"], MAX_FRAMES)
        root = DumpRoot(int(roots[0]), levels=top)
        return Dump(pages, int(pages.mfns[-1]) + 1, (root,), tables=pages.mfns)


def stored_pages(path: Path, mfns: Array, pages: npt.NDArray[np.uint8], limit: int) -> StoredPages:
    """Return pages in ascending order, of frames below `limit`.

    Raises
    ------
    FormatError : another number of pages, a frame twice, or one beyond the limit
    """
    if len(mfns) != len(pages):
        raise FormatError(path, f"has {len(pages)} pages for {len(mfns)} mfns")
    order = np.argsort(mfns, kind="stable")
    ascending = mfns[order]
    check_ascending(path, ascending, limit)
    if (order[1:] > order[:-1]).all():
        order = slice(None)  # type: ignore[assignment]  # in order already: no copy
    return StoredPages(ascending, pages[order])


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
