"""Raw page-table pages in a file: all that is known of tables that somebody read out of a machine's memory.

An .npz with `mfn` uint64[n], `level` uint8[n] (1 is the table of 4K leaves, the highest the root) and `pages`
uint8[n, 4096].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.dumps.npz import Column, read_columns
from twofold.errors import FormatError
from twofold.formats.table_formats import NPT, NPT_2, NPT_5, NPT_PAE, P2M_FORMATS, TableFormat
from twofold.units import FRAME_BYTES, Mfn, format_bytes, parse_frames

Array = npt.NDArray[np.uint64]
FILE_NAME: Final = "npt_pages.npz"  # in a folder
MAX_FRAMES: Final = parse_frames("16TiB")  # what is mapped, sparsely, to hold a file's pages at their own places
_COLUMNS: Final = {"mfn": Column(np.uint64), "level": Column(np.uint8), "pages": Column(np.uint8, (FRAME_BYTES,))}
_FORMAT_OF_LEVELS: Final = {2: NPT_2, 3: NPT_PAE, 4: NPT, 5: NPT_5}


@dataclass(frozen=True)
class RawPages:
    """Page-table pages.

    mfns : uint64[n], ascending
    pages : uint8[n, 4096]
    frames : of the machine; where nobody knows them, up to the last page
    """

    mfns: Array
    pages: npt.NDArray[np.uint8]
    frames: int


def read_pages(path: Path, table_format: str | None) -> tuple[RawPages, TableFormat, Mfn]:
    """Return (pages, format, root).

    Parameters
    ----------
    table_format : None: the NPT with as many levels

    Raises
    ------
    FormatError : what is wrong with the file
    """
    columns: dict[str, Any] = read_columns(path, _COLUMNS)
    mfns, levels = columns["mfn"], columns["level"]
    if len(levels) != len(mfns) or not len(mfns):
        raise FormatError(path, f"has {len(levels)} levels for {len(mfns)} pages")
    top = int(levels.max())
    known = _FORMAT_OF_LEVELS.get(top)
    if known is None:
        raise FormatError(path, f"has a table of level {top}: the root is of level 2 to 5")
    chosen = known if table_format is None else P2M_FORMATS[table_format]
    if chosen.geometry.levels != top:
        raise FormatError(path, f"has {top} levels, and a {chosen.name} table has {chosen.geometry.levels}")
    roots = mfns[levels == top]
    if len(roots) != 1:
        raise FormatError(path, f"has {len(roots)} tables of level {top}, and a P2M has one root")
    return check_pages(path, mfns, columns["pages"], None), chosen, Mfn(int(roots[0]))


def check_pages(path: Path, mfns: Array, pages: npt.NDArray[np.uint8], frames: int | None) -> RawPages:
    """Return pages in ascending order. `frames` : of the machine, None: up to the last page."""
    if len(mfns) != len(pages):
        raise FormatError(path, f"has {len(pages)} pages for {len(mfns)} mfns")
    order = np.argsort(mfns, kind="stable")
    ascending = mfns[order]
    twice = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(twice):
        raise FormatError(path, f"holds mfn {int(ascending[twice[0]]):#x} twice")
    limit = MAX_FRAMES if frames is None else frames
    if len(mfns) and int(ascending[-1]) >= limit:
        at = format_bytes(limit * FRAME_BYTES)
        raise FormatError(path, f"has a table at mfn {int(ascending[-1]):#x}, beyond {at}, the most that is read")
    if (order[1:] > order[:-1]).all():
        order = slice(None)  # type: ignore[assignment]  # in order already: no copy
    end = int(ascending[-1]) + 1 if len(mfns) else 0
    return RawPages(ascending, pages[order], end if frames is None else frames)
