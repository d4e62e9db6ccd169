"""Memory as one array: uint64[n, 512], row n the frame n; also uint32[n, 1024] and uint8[n, 4096].

A .npy file, or an .npz of that array alone, as `np.save` and `np.savez` write them. It says neither where the tables
begin nor what they are: who opens it names root and format.
"""

from pathlib import Path
from typing import Final

from twofold.dumps.npz import first_member, member_names
from twofold.dumps.raw_pages import open_rows
from twofold.dumps.source import BoundedReader, Dump
from twofold.errors import FormatError, some
from twofold.files import read_start
from twofold.memory import MemoryLimit

_NPY: Final = b"\x93NUMPY"
_NAMES: Final = ("arr_0", "tables", "memory")  # what NumPy calls an array without a name, and what people do


class TableArrayReader(BoundedReader):
    """Opens memory that is one array."""

    name = "table-array"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as a .npy does, or an .npz of such an array."""
        return start.startswith(_NPY) or first_member(start) in _NAMES

    def open_within(self, path: Path, limit: MemoryLimit) -> Dump:
        """Return the frames, without a root."""
        if read_start(path, len(_NPY)) == _NPY:
            return open_rows(path, None, limit)
        names = sorted(member_names(path))
        if len(names) != 1:
            raise FormatError(path, f"holds {len(names)} arrays, {some(names)}: one of tables is read")
        return open_rows(path, names[0], limit)
