"""What a saved machine says of its domains and of each frame, checked, as the arrays that an audit reads.

Both formats of a saved machine hold the same arrays:

    about        uint8[n]      JSON: {"twofold-machine": 1, "paging": ..., "frames": ..., "domains": [...]}, each domain
                               with domid, name, table_format and root [mfn]
    owned        uint64[r, 4]  runs of the frame table: mfn, frames, domid, use (`machine.Use`); ascending
    m2p_runs     uint64[m, 2]  runs of frames that back a gfn: mfn, frames; ascending
    m2p          uint64[k]     the gfns, one a frame of those runs
    free_blocks  uint64[f, 2]  free memory: mfn, order
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.dumps.npz import Column
from twofold.dumps.source import MAX_FRAMES, DumpRoot, MachineState
from twofold.errors import FormatError, quoted
from twofold.machine import M2P, FrameTable, Use
from twofold.machine.arena import sparse_array
from twofold.memory import MemoryLimit
from twofold.units import FRAME_BYTES, MAX_HEAP_ORDER

Array = npt.NDArray[np.uint64]
MARK: Final = "twofold-machine"
VERSION: Final = 1
STATE_COLUMNS: Final = {
    "about": Column(np.uint8),
    "owned": Column(np.uint64, (4,)),
    "m2p_runs": Column(np.uint64, (2,)),
    "m2p": Column(np.uint64),
    "free_blocks": Column(np.uint64, (2,)),
}
_USES: Final = [int(use) for use in Use if use is not Use.NONE]
_CELL_ORDER: Final = 12  # frames of which an array of bytes has one page: what is there costs such cells
_OWNED_COST: Final = 4  # bytes of frame table and marks of the audit for each frame of a cell
_M2P_COST: Final = 8
_ROW_COST: Final = 8  # bytes of Python's numbers for a byte of a row
_TEXT_COST: Final = 80  # bytes of Python's objects for a byte of JSON: "[[[[" is lists


def read_about(path: Path, text: bytes, limit: MemoryLimit) -> tuple[int, tuple[DumpRoot, ...]]:
    """Return (frames of the machine, its domains).

    Raises
    ------
    FormatError : what is wrong with the text
    """
    limit.claim(path, _TEXT_COST * len(text))
    try:
        about = json.loads(text)
        if about[MARK] != VERSION:
            raise FormatError(path, f"has version {quoted(about[MARK])}, this program reads {VERSION}")
        frames, domains = about["frames"], about["domains"]
        is_right = (
            type(frames) is int and 0 < frames <= MAX_FRAMES and all(_is_domain(each, frames) for each in domains)
        )
        roots = tuple(
            DumpRoot(each["root"], each["table_format"], name=each["name"], domid=each["domid"]) for each in domains
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(path, f"says nothing readable about its machine: {quoted(error)}") from None
    if not is_right:
        raise FormatError(path, "describes a machine that cannot be")
    if len({each.domid for each in roots}) < len(roots):
        raise FormatError(path, "names one domid for two domains")
    return frames, roots


def _is_domain(said: Mapping[str, Any], frames: int) -> bool:
    """Return whether a file says of a domain what it has to; format and name are held against more in `readers`."""
    numbers, texts = (said["domid"], said["root"]), (said["name"], said["table_format"])
    if any(type(number) is not int for number in numbers) or any(type(text) is not str for text in texts):
        return False
    return bool(0 < said["domid"] < 1 << 16 and 0 <= said["root"] < frames)


def read_state(path: Path, frames: int, columns: Mapping[str, Any], limit: MemoryLimit) -> MachineState:
    """Return frame table, M2P and free memory, every number in `columns` checked.

    Raises
    ------
    FormatError : what is wrong with them, or they take more memory than they may
    """
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
    # The audit may look into every table frame; a page of the orders for each block's head.
    in_tables = int(owned[owned[:, 3] == Use.TABLES, 1].sum())
    limit.claim(path, FRAME_BYTES * (in_tables + min(len(blocks), -(-frames // FRAME_BYTES))))
    cells = _cells(owned)
    per_cell = (_OWNED_COST << _CELL_ORDER) * int(cells[:, 1].sum())
    per_cell += (_M2P_COST << _CELL_ORDER) * int(_cells(m2p_runs)[:, 1].sum())
    limit.claim(path, per_cell + _ROW_COST * (owned.nbytes + m2p_runs.nbytes))
    parts = [(first << _CELL_ORDER, count << _CELL_ORDER) for first, count in cells.tolist()]
    state = _filled(frames, owned, m2p_runs.astype(np.int64), columns["m2p"], blocks)
    return state._replace(parts=[(first, min(count, frames - first)) for first, count in parts])


def _cells(runs: Array) -> npt.NDArray[np.int64]:
    """Return (first, cells) of the runs of cells that runs of frames lie in; ascending, as those are."""
    if not len(runs):
        return np.zeros((0, 2), np.int64)
    first = (runs[:, 0] >> np.uint64(_CELL_ORDER)).astype(np.int64)
    last = (runs[:, 0] + runs[:, 1] - np.uint64(1) >> np.uint64(_CELL_ORDER)).astype(np.int64)
    begins = np.flatnonzero(np.concatenate(([True], first[1:] > last[:-1] + 1)))
    ends = last[np.append(begins[1:] - 1, len(runs) - 1)]
    return np.stack([first[begins], ends - first[begins] + 1], axis=1)


def _filled(frames: int, owned: Array, runs: npt.NDArray[np.int64], gfns: Array, blocks: Array) -> MachineState:
    """Return checked columns as arrays with one entry a frame."""
    frame_table, m2p = FrameTable(frames, kernels), M2P(frames, kernels)
    for mfn, length, domid, use in owned.tolist():
        frame_table.owner[mfn : mfn + length] = domid
        frame_table.use[mfn : mfn + length] = use
    ends = np.cumsum(runs[:, 1])
    for (mfn, length), end in zip(runs.tolist(), ends.tolist(), strict=True):
        m2p.complement[mfn : mfn + length] = ~gfns[end - length : end]
    orders: npt.NDArray[np.uint8] = sparse_array(frames, np.uint8)  # type: ignore[assignment]
    orders[blocks[:, 0].astype(np.int64)] = blocks[:, 1] + np.uint64(1)
    return MachineState(frame_table, m2p, orders)


def _check_runs(path: Path, name: str, starts: Array, lengths: Array, frames: int) -> None:
    """Raise unless runs are ascending, apart from each other and inside the machine."""
    if not len(starts):
        return
    if int(starts.max()) >= frames or int(lengths.max()) > frames or not int(lengths.min()):
        raise FormatError(path, f"has {name} outside the machine")
    ends = starts + lengths
    if int(ends.max()) > frames or (starts[1:] < ends[:-1]).any():
        raise FormatError(path, f"has {name} outside the machine, or overlapping")
