"""ChampSim's binary traces: one record an instruction, usually packed by xz or zstd; layouts are in `formats.champsim`.

Nothing in a file names its layout, so the records do: their flags are 0 or 1, their addresses canonical and in no first
page, what is padding is 0. Records that are cut at the wrong length are not like that. An address of 0 stands for no
access. Lengths are not in the records, and what a load's type or an address space is, is left out.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from twofold.errors import FormatError
from twofold.formats.arrays import Bytes, Words
from twofold.formats.champsim import IS_BRANCH, IS_TAKEN, LAYOUTS, POINTER, RecordLayout
from twofold.formats.trace_program import FIRST_ADDRESS
from twofold.kernels import traces as kernels
from twofold.trace.accesses import TraceBlock
from twofold.trace.packed import TAR, ByteSource, is_tar

CHUNK_RECORDS: Final = 1 << 15
_SIGN: Final = np.uint64(47)  # of an address: the bits from here up are equal
_ONES: Final = np.uint64((1 << 17) - 1)
_FITTING: Final = 15 / 16  # of the records: a traced program may make an address that is not canonical
_STEP: Final = 16  # bytes to the next instruction, at most
_NOTES: Final = ("Lengths are not in the records.",)


class ChampSimReader:
    """The accesses of a ChampSim trace.

    Parameters
    ----------
    source : the file
    layout : of its records
    """

    def __init__(self, source: ByteSource, layout: RecordLayout) -> None:
        self.name = layout.name
        self._source = source
        self._layout = layout

    def notes(self) -> tuple[str, ...]:
        """Return what has to be said of such a trace."""
        return _NOTES

    def blocks(self) -> Iterator[TraceBlock]:
        """Yield the accesses in order: of each instruction the fetch, the loads, the stores.

        Raises
        ------
        FormatError : a record that is cut off, or broken data; what stands before was yielded
        """
        held, instructions, length = b"", 0, self._layout.bytes_
        problem: FormatError | None = None
        while problem is None:
            try:
                part = self._source.read(CHUNK_RECORDS * length - len(held))
            except FormatError as error:
                part, problem = b"", error
            if not part:
                break
            held += part
            whole = len(held) // length
            records = np.frombuffer(held, np.uint64, whole * self._layout.words).reshape(whole, self._layout.words)
            if whole:
                yield self._unpack(records, instructions + 1)
            held, instructions = held[whole * length :], instructions + whole
        if problem is not None:
            raise problem
        if held:
            cut = f"ends in a record of {length} bytes{self._source.place}, {length - len(held)} before its end"
            raise FormatError(self._source.path, cut, self._source.offset)

    def _unpack(self, records: Words, first_icount: int) -> TraceBlock:
        out = np.empty((3, self._layout.accesses * len(records)), np.uint64)
        places = np.array(self._layout.places, np.int64)
        count = int(kernels.unpack_champsim(records.copy(), places, np.uint64(first_icount), out))
        gvas, icounts, kinds = out[:, :count]
        return TraceBlock.of(gvas.copy(), icounts=icounts.copy(), kinds=kinds.astype(np.uint8))


def champsim_reader(source: ByteSource, name: str, head: bytes, *, is_whole: bool) -> ChampSimReader:
    """Return the reader of a file that was named as one of these layouts.

    Parameters
    ----------
    head : its first bytes; `is_whole` says that there are no more

    Raises
    ------
    FormatError : its records are of none of the layouts, or of another one; or it is an archive
    """
    if is_tar(head):
        raise FormatError(source.path, TAR, 0)
    layouts = find_layouts(head, is_whole=is_whole)
    if LAYOUTS[name] in layouts or 0 < len(head) < LAYOUTS[name].bytes_:  # cut off, which its reader says
        return ChampSimReader(source, LAYOUTS[name])
    if not head:
        problem = f"is no {name} trace: it is empty"
    elif not layouts:
        bytes_ = LAYOUTS[name].bytes_
        problem = f"is no {name} trace: its records of {bytes_} bytes have flags or addresses that cannot be"
    else:
        like = " or ".join(f"{each.title}, of {each.bytes_} bytes: {each.name}" for each in layouts)
        problem = f"is no {name} trace: its records are like those of {like}"
    raise FormatError(source.path, problem, 0)


def find_layouts(head: bytes, *, is_whole: bool) -> list[RecordLayout]:
    """Return the layouts that a file's records may have, by its first bytes: none, one, or several that fit alike."""
    shares = {layout.name: _share(head, layout) for layout in LAYOUTS.values()}
    fitting = [layout for layout in LAYOUTS.values() if shares[layout.name] >= _FITTING]
    best = max((shares[layout.name] for layout in fitting), default=0.0)
    fitting = [layout for layout in fitting if shares[layout.name] == best]
    if is_whole:
        fitting = [layout for layout in fitting if not len(head) % layout.bytes_] or fitting
    steps = {layout.name: _steps(head, layout) for layout in fitting}
    return [layout for layout in fitting if steps[layout.name] == max(steps.values())]


def _records(head: bytes, layout: RecordLayout) -> Bytes:
    whole = len(head) // layout.bytes_
    return np.frombuffer(head, np.uint8, whole * layout.bytes_).reshape(whole, layout.bytes_)


def _share(head: bytes, layout: RecordLayout) -> float:
    """Return the share of records in which flags, addresses and padding are what they can be."""
    rows = _records(head, layout)
    if not len(rows):
        return 0.0
    words = rows.view(np.uint64)
    first_store, _, end = layout.places
    used = words[:, first_store:end]
    top = np.column_stack((words[:, POINTER], used)) >> _SIGN
    fits = (words[:, POINTER] >= FIRST_ADDRESS) & ((used == 0) | (used >= FIRST_ADDRESS)).all(axis=1)
    fits &= ((top == 0) | (top == _ONES)).all(axis=1)
    fits &= (rows[:, IS_BRANCH] <= 1) & (rows[:, IS_TAKEN] <= rows[:, IS_BRANCH])
    for word, limit in layout.limits:
        fits &= words[:, word] < limit
    return float(fits.mean())


def _steps(head: bytes, layout: RecordLayout) -> float:
    """Return the share of records whose instruction is the next one in memory."""
    pointers = _records(head, layout).view(np.uint64)[:, POINTER]
    return float((np.diff(pointers) - np.uint64(1) < _STEP).mean()) if len(pointers) > 1 else 0.0
