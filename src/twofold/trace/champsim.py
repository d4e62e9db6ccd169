r"""ChampSim's binary traces: one record of 64 bytes an instruction, usually packed by xz or zstd.

    0    8           9             10         12       16         24         32       ..      63
    +----+-----------+-------------+----------+--------+----------+----------+--------------+
    | ip | is_branch | branch_taken| 2 outputs| 4 inputs| 2 stores, u64 each | 4 loads, u64 each |
    +----+-----------+-------------+----------+--------+----------+----------+--------------+

An address of 0 stands for no access. The record has no lengths. Source: ChampSim, inc/trace_instruction.h, input_instr.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from twofold.errors import FormatError
from twofold.formats.arrays import Words
from twofold.formats.champsim import RECORD_ACCESSES, RECORD_WORDS
from twofold.kernels import traces as kernels
from twofold.trace.accesses import TraceBlock
from twofold.trace.packed import ByteSource

NAME: Final = "champsim"
RECORD_BYTES: Final = 8 * RECORD_WORDS
CHUNK_RECORDS: Final = 1 << 15
_SIGN: Final = np.uint64(47)  # of an address: the bits from here up are equal
_ONES: Final = np.uint64((1 << 17) - 1)
_NOTES: Final = ("Lengths are not in the records.",)


class ChampSimReader:
    """The accesses of a ChampSim trace.

    Parameters
    ----------
    source : the file
    """

    def __init__(self, source: ByteSource) -> None:
        self.name = NAME
        self._source = source

    def notes(self) -> tuple[str, ...]:
        """Return what has to be said of such a trace."""
        return _NOTES

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order: of each instruction the fetch, the loads, the stores.

        Raises
        ------
        FormatError : a record that is cut off, or broken data; what stands before was yielded
        """
        held, instructions = b"", 0
        problem: FormatError | None = None
        while problem is None:
            try:
                part = self._source.read(CHUNK_RECORDS * RECORD_BYTES - len(held))
            except FormatError as error:
                part, problem = b"", error
            if not part:
                break
            held += part
            whole = len(held) // RECORD_BYTES
            records = np.frombuffer(held, np.uint64, whole * RECORD_WORDS).reshape(whole, RECORD_WORDS)
            if whole:
                yield _unpack(records, instructions + 1)
            held, instructions = held[whole * RECORD_BYTES :], instructions + whole
        if problem is not None:
            raise problem
        if held:
            missing = RECORD_BYTES - len(held)
            cut = f"ends in a record of {RECORD_BYTES} bytes{self._source.place}, {missing} before its end"
            raise FormatError(self._source.path, cut, self._source.offset)


def _unpack(records: Words, first_icount: int) -> TraceBlock:
    out = np.empty((3, RECORD_ACCESSES * len(records)), np.uint64)
    count = int(kernels.unpack_champsim(records.copy(), np.uint64(first_icount), out))
    gvas, icounts, kinds = out[:, :count]
    return TraceBlock.of(gvas.copy(), icounts=icounts.copy(), kinds=kinds.astype(np.uint8))


def looks_like_champsim(head: bytes) -> bool:
    """Return whether the first bytes of a file may be records: flags are 0 or 1, addresses canonical, some not 0."""
    records = len(head) // RECORD_BYTES
    if not records:
        return False
    rows = np.frombuffer(head, np.uint8, records * RECORD_BYTES).reshape(records, RECORD_BYTES)
    words = rows.view(np.uint64)
    addresses = np.delete(words, 1, axis=1)
    top = addresses >> _SIGN
    flags_fit = bool((rows[:, 8:10] <= 1).all() and (rows[:, 9] <= rows[:, 8]).all())
    return flags_fit and bool(((top == 0) | (top == _ONES)).all()) and bool(words[:, 0].any())
