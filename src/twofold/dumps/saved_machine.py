"""The file that a machine is saved in, for somebody else to audit: page tables, frame table, M2P, free memory.

A container (`container`) of kind "machine". The contents of guest memory are not in it. Its chunks are the arrays of
`machine_state`, little endian, row after row, and the tables:

    ABOU  about         OWND  owned         MRUN  m2p_runs         MGFN  m2p         FREE  free_blocks
    TMFN  uint64[n]        every table frame that was ever written: its mfn; ascending
    PAGE  uint8[k, 4096]   the pages, in the order of TMFN: 256 in each chunk, what is left in the last

So one page is found, read and checked by its chunk alone, whatever the size of the file.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from twofold.dumps.container import Container, ContainerWriter, kind_of
from twofold.dumps.machine_state import MARK, STATE_COLUMNS, VERSION, read_about, read_state
from twofold.dumps.npz import Column
from twofold.dumps.raw_pages import check_ascending
from twofold.dumps.source import BoundedReader, Dump
from twofold.errors import MOST_IN_NAME, FormatError, quoted
from twofold.files import write_whole
from twofold.formats.table_formats import TableFormat
from twofold.machine import FrameTable, Hardware, Use
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, Mfn

Array = npt.NDArray[np.uint64]
KIND: Final = "machine"
_TYPES: Final = {"about": "ABOU", "owned": "OWND", "m2p_runs": "MRUN", "m2p": "MGFN", "free_blocks": "FREE"}
_MFNS, _PAGES = "TMFN", "PAGE"
_PART: Final = 256  # pages a chunk: 1 MiB
_KEPT_PARTS: Final = 16  # unpacked chunks that are kept at a time
_STEP: Final = 1 << 22  # frames
_NONE: Final = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class SavedDomain:
    """What a file says of one domain."""

    domid: int
    name: str
    table_format: TableFormat
    root: Mfn


class MachineReader(BoundedReader):
    """Opens a saved machine."""

    name = "machine"

    def knows(self, start: bytes) -> bool:
        """Return whether a file begins as a container of this kind does."""
        return kind_of(start) == KIND

    def open_within(self, path: Path, limit: MemoryLimit) -> Dump:
        """Return the machine; its pages are read when they are asked for."""
        container = Container(path, KIND, {*_TYPES.values(), _MFNS, _PAGES})
        try:
            columns = _read_columns(container, limit)
            frames, domains = read_about(path, columns["about"].tobytes(), limit)
            check_ascending(path, columns["mfn"], frames)
            pages = ContainedPages(container, columns["mfn"])
            state = read_state(path, frames, columns, limit)
        except BaseException:
            container.close()
            raise
        return Dump(pages, frames, domains, columns["mfn"], state, container.close)


class ContainedPages:
    """The pages of a container, as a source: a chunk at a time, the last few kept.

    Parameters
    ----------
    mfns : of the pages, ascending
    """

    def __init__(self, container: Container, mfns: Array) -> None:
        self._mfns = mfns
        self._chunks = container.of_type(_PAGES)
        expected = [_PART] * (len(mfns) // _PART) + [len(mfns) % _PART] * (len(mfns) % _PART > 0)
        if [chunk.bytes_ for chunk in self._chunks] != [pages * FRAME_BYTES for pages in expected]:
            raise FormatError(container.path, f"has {len(mfns)} tables, and pages for another number")
        self._part = lru_cache(_KEPT_PARTS)(lambda number: container.read(self._chunks[number]))

    def read(self, mfn: int) -> bytes | None:
        """Return a page, None for a frame that is not among them."""
        row = int(np.searchsorted(self._mfns, np.uint64(mfn)))
        if row == len(self._mfns) or int(self._mfns[row]) != mfn:
            return None
        start = row % _PART * FRAME_BYTES
        return self._part(row // _PART)[start : start + FRAME_BYTES]


def _read_columns(container: Container, limit: MemoryLimit) -> dict[str, Any]:
    """Return the arrays of a file by name."""
    wanted = {**STATE_COLUMNS, "mfn": Column(np.uint64)}
    stored = sum(container.bytes_of(_TYPES.get(name, _MFNS)) for name in wanted)
    limit.claim(container.path, 2 * stored)  # its chunks, and what they are joined to
    columns = {}
    for name, column in wanted.items():
        type_ = _TYPES.get(name, _MFNS)
        if not container.of_type(type_):
            raise FormatError(container.path, f"has no chunk {type_!r}")
        content, row = container.read_all(type_), np.dtype(column.dtype).newbyteorder("<")
        columns_of_row = int(np.prod(column.row, dtype=np.int64))
        if len(content) % (row.itemsize * columns_of_row):
            raise FormatError(container.path, f"has {len(content)} bytes in {type_!r}: no whole number of rows")
        columns[name] = np.frombuffer(content, row).reshape(-1, *column.row)
    return columns


def save_machine(path: Path, hardware: Hardware, paging: str, domains: Sequence[SavedDomain]) -> None:
    """Write a machine's tables, frame table, M2P and free memory, whole or not at all.

    Raises
    ------
    FormatError : the file cannot be written, or a domain has a name that no reader would take
    """
    for each in domains:
        if not each.name.isprintable():
            raise FormatError(path, f"cannot hold a domain of the name {quoted(each.name)}: it cannot be printed")
        if len(each.name) > MOST_IN_NAME:
            raise FormatError(path, f"cannot hold a domain of a name of more than {MOST_IN_NAME} letters")
    columns = _columns_of(hardware, paging, domains)
    mfns = _written_tables(hardware, columns["owned"])

    def write(file: BinaryIO) -> None:
        writer = ContainerWriter(file, KIND)
        for name, type_ in _TYPES.items():
            writer.add(type_, columns[name].tobytes())
        writer.add(_MFNS, mfns.tobytes())
        for part in _parts(hardware, mfns):
            writer.add(_PAGES, part)
        writer.finish()

    write_whole(path, write, is_private=True)


def _columns_of(hardware: Hardware, paging: str, domains: Sequence[SavedDomain]) -> dict[str, npt.NDArray[Any]]:
    """Return what `machine_state` describes."""
    about = {
        MARK: VERSION,
        "paging": paging,
        "frames": hardware.frames,
        "domains": [
            {"domid": each.domid, "name": each.name, "table_format": each.table_format.name, "root": each.root}
            for each in domains
        ],
    }
    m2p_runs, m2p = _m2p_runs(hardware.m2p.complement)
    return {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "owned": _owned_runs(hardware.frame_table, hardware.frames),
        "m2p_runs": m2p_runs,
        "m2p": m2p,
        "free_blocks": np.array(hardware.heap.blocks(), np.uint64).reshape(-1, 2),
    }


def _written_tables(hardware: Hardware, owned: Array) -> Array:
    """Return every frame of a table pool that was ever written, ascending."""
    runs = owned[owned[:, 3] == Use.TABLES, :2].astype(np.int64).tolist()
    touched = [run for mfn, frames in runs for run in hardware.arena.data_runs(mfn, frames)]
    return np.concatenate([_NONE, *(np.arange(mfn, mfn + frames, dtype=np.uint64) for mfn, frames in touched)])


def _parts(hardware: Hardware, mfns: Array) -> Iterator[bytes]:
    """Yield the pages of one chunk after the other."""
    for start in range(0, len(mfns), _PART):
        yield hardware.arena.tables[mfns[start : start + _PART].astype(np.int64)].tobytes()


def _owned_runs(table: FrameTable, frames: int) -> Array:
    """Return (mfn, frames, domid, use) of each run of frames that somebody holds, ascending."""
    parts = []
    for first in range(0, frames, _STEP):
        owner, use = table.owner[first : first + _STEP], table.use[first : first + _STEP]
        changes = np.flatnonzero((np.diff(owner) != 0) | (np.diff(use) != 0)) + 1
        starts = np.concatenate(([0], changes))
        lengths = np.diff(starts, append=len(owner))
        rows = np.stack([starts + first, lengths, owner[starts], use[starts]], axis=1).astype(np.uint64)
        parts.append(rows[rows[:, 2] != 0])
    return np.concatenate(parts)


def _m2p_runs(complement: Array) -> tuple[Array, Array]:
    """Return (mfn, frames) of runs of frames that back a gfn, and the gfns."""
    runs, gfns = [], []
    for first in range(0, len(complement), _STEP):
        part = complement[first : first + _STEP]
        mfns = np.flatnonzero(part)
        starts = np.flatnonzero(np.diff(mfns, prepend=-2) != 1)
        lengths = np.diff(starts, append=len(mfns))
        runs.append(np.stack([mfns[starts] + first, lengths], axis=1).astype(np.uint64))
        gfns.append(~part[mfns])
    return np.concatenate(runs), np.concatenate(gfns)
