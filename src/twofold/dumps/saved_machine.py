"""The file that a machine is saved in, for somebody else to audit: page tables, frame table, M2P, free memory.

An .npz, so that other tools read it too. The contents of guest memory are not in it.

    about        uint8[n]      JSON: {"twofold-machine": 1, "paging": ..., "frames": ..., "domains": [...]}, each domain
                               with domid, name, table_format and root [mfn]
    owned        uint64[r, 4]  runs of the frame table: mfn, frames, domid, use (1 memory, 2 tables); ascending
    m2p_runs     uint64[m, 2]  runs of frames that back a gfn: mfn, frames; ascending
    m2p          uint64[k]     the gfns, one a frame of those runs
    free_blocks  uint64[f, 2]  free memory: mfn, order
    mfn, pages   uint64[n], uint8[n, 4096]  every table frame that was ever written; ascending
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.dumps.npz import Column, check_room, read_columns
from twofold.dumps.raw_pages import MAX_FRAMES, RawPages, check_pages
from twofold.errors import FormatError
from twofold.files import write_whole
from twofold.formats.table_formats import P2M_FORMATS, TableFormat
from twofold.machine import M2P, FrameTable, Hardware, Use
from twofold.machine.arena import sparse_array
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER, Mfn

Array = npt.NDArray[np.uint64]
_MARK: Final = "twofold-machine"
_VERSION: Final = 1
_STEP: Final = 1 << 22  # frames
_COLUMNS: Final = {
    "about": Column(np.uint8),
    "owned": Column(np.uint64, (4,)),
    "m2p_runs": Column(np.uint64, (2,)),
    "m2p": Column(np.uint64),
    "free_blocks": Column(np.uint64, (2,)),
    "mfn": Column(np.uint64),
    "pages": Column(np.uint8, (FRAME_BYTES,)),
}


@dataclass(frozen=True)
class SavedDomain:
    """What a file says of one domain."""

    domid: int
    name: str
    table_format: TableFormat
    root: Mfn


@dataclass(frozen=True)
class SavedMachine:
    """What stands in a file: the tables, and what they are held against."""

    domains: tuple[SavedDomain, ...]
    tables: RawPages
    frame_table: FrameTable
    m2p: M2P
    orders: npt.NDArray[np.uint8]  # of the heap: order + 1 at the head of each free block


def save_machine(path: Path, hardware: Hardware, paging: str, domains: Sequence[SavedDomain]) -> None:
    """Write a machine's tables, frame table, M2P and free memory, whole or not at all.

    Raises
    ------
    FormatError : the file cannot be written
    """
    about = {
        _MARK: _VERSION,
        "paging": paging,
        "frames": hardware.frames,
        "domains": [
            {"domid": each.domid, "name": each.name, "table_format": each.table_format.name, "root": each.root}
            for each in domains
        ],
    }
    owned = _owned_runs(hardware.frame_table, hardware.frames)
    m2p_runs, m2p = _m2p_runs(hardware.m2p.complement)
    table_runs = owned[owned[:, 3] == Use.TABLES, :2].astype(np.int64).tolist()
    touched = [run for mfn, frames in table_runs for run in hardware.arena.data_runs(mfn, frames)]
    mfns = np.concatenate([np.arange(mfn, mfn + frames, dtype=np.uint64) for mfn, frames in touched] or [_NONE])
    columns: dict[str, Any] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "owned": owned,
        "m2p_runs": m2p_runs,
        "m2p": m2p,
        "free_blocks": np.array(hardware.heap.blocks(), np.uint64).reshape(-1, 2),
        "mfn": mfns,
        "pages": hardware.arena.tables[mfns.astype(np.int64)].view(np.uint8),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # NumPy adds ".npz" to a name, not to a file
            np.savez_compressed(file, **columns)

    write_whole(path, write)


_NONE: Final = np.zeros(0, np.uint64)
_USES: Final = [int(use) for use in Use if use is not Use.NONE]


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


def read_machine(path: Path) -> SavedMachine:
    """Return what a file holds, every number in it checked.

    Raises
    ------
    FormatError : what is wrong with it
    """
    columns: dict[str, Any] = read_columns(path, _COLUMNS)
    frames, domains = _read_about(path, columns["about"].tobytes())
    tables = check_pages(path, columns["mfn"], columns["pages"], frames)
    owned, m2p_runs, blocks = columns["owned"], columns["m2p_runs"], columns["free_blocks"]
    _check_runs(path, "owned", owned[:, 0], owned[:, 1], frames)
    _check_runs(path, "m2p_runs", m2p_runs[:, 0], m2p_runs[:, 1], frames)
    if int(m2p_runs[:, 1].sum()) != len(columns["m2p"]):
        raise FormatError(path, "has m2p and m2p_runs of different lengths")
    if len(owned) and (int(owned[:, 2].max()) >> 16 or not np.isin(owned[:, 3], _USES).all()):
        raise FormatError(path, "has owners or uses that no frame table holds")
    if len(blocks) and int(blocks[:, 1].max()) > MAX_HEAP_ORDER:
        raise FormatError(path, f"has free blocks of an order above {MAX_HEAP_ORDER}")
    blocks = blocks[np.argsort(blocks[:, 0])]
    _check_runs(path, "free_blocks", blocks[:, 0], np.uint64(1) << blocks[:, 1], frames)
    # 11 bytes a frame of frame table and M2P; the audit may look into every table frame; a page for each block's head.
    in_tables = int(owned[owned[:, 3] == Use.TABLES, 1].sum())
    check_room(path, 11 * int(owned[:, 1].sum()) + FRAME_BYTES * (in_tables + min(len(blocks), frames // FRAME_BYTES)))
    return _filled(frames, domains, tables, columns | {"free_blocks": blocks})


def _filled(frames: int, domains: tuple[SavedDomain, ...], tables: RawPages, columns: dict[str, Array]) -> SavedMachine:
    """Return checked columns as the arrays that an audit reads."""
    owned, runs, blocks = columns["owned"], columns["m2p_runs"].astype(np.int64), columns["free_blocks"]
    frame_table, m2p = FrameTable(frames, kernels), M2P(frames, kernels)
    for mfn, length, domid, use in owned.tolist():
        frame_table.owner[mfn : mfn + length] = domid
        frame_table.use[mfn : mfn + length] = use
    ends = np.cumsum(runs[:, 1])
    for (mfn, length), end in zip(runs.tolist(), ends.tolist(), strict=True):
        m2p.complement[mfn : mfn + length] = ~columns["m2p"][end - length : end]
    orders: npt.NDArray[np.uint8] = sparse_array(frames, np.uint8)  # type: ignore[assignment]
    orders[blocks[:, 0].astype(np.int64)] = blocks[:, 1] + np.uint64(1)
    return SavedMachine(domains, tables, frame_table, m2p, orders)


def _read_about(path: Path, text: bytes) -> tuple[int, tuple[SavedDomain, ...]]:
    """Return (frames of the machine, domains)."""
    try:
        about = json.loads(text)
        if about[_MARK] != _VERSION:
            raise FormatError(path, f"has version {about[_MARK]}, this program reads {_VERSION}")
        frames = about["frames"]
        domains = tuple(
            SavedDomain(each["domid"], each["name"], P2M_FORMATS[each["table_format"]], each["root"])
            for each in about["domains"]
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(path, f"says nothing readable about its machine: {error!r}") from None
    is_right = type(frames) is int and 0 < frames <= MAX_FRAMES
    for each in domains:
        is_right &= type(each.domid) is int and 0 < each.domid < 1 << 16 and isinstance(each.name, str)
        is_right &= type(each.root) is int and 0 <= each.root < (frames if is_right else 0)
    if not is_right:
        raise FormatError(path, "describes a machine that cannot be")
    return frames, domains


def _check_runs(path: Path, name: str, starts: Array, lengths: Array, frames: int) -> None:
    """Raise unless runs are ascending, apart from each other and inside the machine."""
    if not len(starts):
        return
    if int(starts.max()) >= frames or int(lengths.max()) > frames or not int(lengths.min()):
        raise FormatError(path, f"has {name} outside the machine")
    ends = starts + lengths
    if int(ends.max()) > frames or (starts[1:] < ends[:-1]).any():
        raise FormatError(path, f"has {name} outside the machine, or overlapping")
