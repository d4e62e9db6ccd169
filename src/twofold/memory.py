"""How much memory one piece of work may hold: claimed before it is taken, and looked at while it is used.

A file says how much it unpacks to, how many frames its machine has, how far its tables reach. Whoever reads it claims
that here before anything is allocated, so that a small file cannot ask for any amount.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from twofold.errors import FormatError, HostError, SizeError
from twofold.units import format_bytes, parse_bytes

Block = TypeVar("Block")

SHARE: Final = 4  # a part of the memory that is free when the work begins
_MEMINFO: Final = Path("/proc/meminfo")
_STATUS: Final = Path("/proc/self/status")
_RESIDENT: Final = ("RssAnon:", "RssFile:")  # RssShmem is the machine's own memory, the tables
_KIB: Final = 1 << 10


class MemoryLimit:
    """The most that one piece of work may hold.

    Parameters
    ----------
    limit : so many bytes, or a text like "512MiB"; None: a quarter of what is free now

    Attributes
    ----------
    bytes_ : the limit
    claimed : what was claimed of it
    most : what was seen resident, by `over` [bytes]
    """

    def __init__(self, limit: int | str | None = None) -> None:
        self.bytes_ = free_bytes() // SHARE if limit is None else parse_bytes(limit)
        self.claimed = 0
        self.most = 0

    def claim(self, path: object, bytes_: int) -> None:
        """Claim memory for what a file holds, before it is allocated.

        Raises
        ------
        FormatError : with all that was claimed before it is more than may be held
        """
        if self.claimed + bytes_ > self.bytes_:
            asked, most = format_bytes(self.claimed + bytes_), format_bytes(self.bytes_)
            raise FormatError(path, f"takes {asked} of memory, and max_memory allows {most}")
        self.claimed += bytes_

    def over(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield blocks, and look before each and after the last at what is resident.

        Raises
        ------
        SizeError : more is held than may be
        """
        for block in blocks:
            self._look()
            yield block
        self._look()

    def _look(self) -> None:
        self.most = max(self.most, resident_bytes())
        if self.most > self.bytes_:
            raise SizeError(
                format_bytes(self.bytes_), f"is too little memory: {format_bytes(self.most)} are held, tables aside"
            )


class MemoryWatch(MemoryLimit):
    """A limit that is none unless somebody asks for one: for streams, which hold a block at a time.

    Parameters
    ----------
    limit : as `MemoryLimit`; None: no bound
    """

    def __init__(self, limit: int | str | None = None) -> None:
        super().__init__(_ENDLESS if limit is None else limit)


_ENDLESS: Final = 1 << 62


def free_bytes() -> int:
    """Return what this machine could still give without swapping."""
    match = re.search(
        r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii", errors="replace"), re.MULTILINE
    )
    if match is None:
        raise HostError(str(_MEMINFO), "has no line MemAvailable; say max_memory")
    return int(match.group(1)) * _KIB


def resident_bytes() -> int:
    """Return what this process holds in memory, shared memory aside, where machines are [bytes]."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return sum(int(fields[1]) * _KIB for fields in lines if fields and fields[0] in _RESIDENT)
