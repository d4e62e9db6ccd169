"""The machines that Twofold saved before it had a container. Such files are read, and no longer written.

An .npz of the arrays of `machine_state`, and

    mfn, pages   uint64[n], uint8[n, 4096]  every table frame that was ever written; ascending
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from twofold.dumps.machine_state import STATE_COLUMNS, read_about, read_state
from twofold.dumps.npz import Column, first_member, read_columns
from twofold.dumps.raw_pages import stored_pages
from twofold.dumps.source import BoundedReader, Dump
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES

_COLUMNS: Final = {**STATE_COLUMNS, "mfn": Column(np.uint64), "pages": Column(np.uint8, (FRAME_BYTES,))}


class OldMachineReader(BoundedReader):
    """Opens a machine that was saved as an .npz."""

    name = "machine-npz"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as those did: with what it says about itself."""
        return first_member(start) == "about"

    def open_within(self, path: Path, limit: MemoryLimit) -> Dump:
        """Return the machine, every number in the file checked."""
        columns: dict[str, Any] = read_columns(path, _COLUMNS, limit)
        frames, domains = read_about(path, columns["about"].tobytes(), limit)
        pages = stored_pages(path, columns["mfn"], columns["pages"], frames, limit)
        return Dump(pages, frames, domains, pages.mfns, read_state(path, frames, columns, limit))
