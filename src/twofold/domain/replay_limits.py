"""What a replay may take: steps of work and bytes of memory, asked for before each operation spends them.

A journal of some hundred bytes can ask for any amount: a digest of a machine of 1 TiB, every leaf of a domain split, a
range of 2**45 gfns. So each operation is asked first what it may come to at most, by its arguments and by what exists.
What is more than is left is refused, and nothing of it is done. What it then came to is charged by what it has changed.

A step is an entry of a table, or what takes as long: some 5 ns. By default a journal may take 2**30 steps, in which the
tables of 512 GiB in 4K leaves are made and digested, and 64 for each of its bytes, which is what operations take that
change little: a program's journal pays for its operations by their records. Read first: `replay`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from twofold.domain.domain import Domain
from twofold.domain.machine import Machine
from twofold.domain.options import DomainOptions
from twofold.errors import FormatError, TwofoldError
from twofold.freemaps import promised_runs
from twofold.machine.journal import MAX_RECORD_BYTES
from twofold.machine.journal_reader import Call
from twofold.memory import MemoryLimit, resident_bytes
from twofold.p2m.pool import default_frames
from twofold.units import FRAME_BYTES, FRAME_SHIFT, format_bytes, parse_frames

BASE_WORK: Final = 1 << 30
WORK_PER_BYTE: Final = 64
_ENTRIES: Final = 512  # of one table; 1024 in the 2-level format, where no domain is large
_RUN_STEPS: Final = 400  # of a run of the free map, until it stands in the heap
_RUN_BYTES: Final = 150
_BYTE_STEPS: Final = 2  # of a byte of a record: unpacked, checked, made a value, stored
_LEAST: Final = 1 << 8  # steps of any operation
_DIGEST_TABLE: Final = 1200  # steps of the digest of a page: SHA-256 of 4 KiB
_FRAMES_A_STEP: Final = 2  # that the digest of frame table, M2P and heap looks at
_GFN_BYTES: Final = 64  # of a gfn in a list, in the arrays that an operation makes of it
_FRAME_BYTES: Final = 12  # of frame table, M2P and heap for a frame that changes hands
_LEVEL_SHIFTS: Final = (9, 18, 27, 36)  # log2 frames of what a table of each level maps
_FRAMES_A_SCAN: Final = 64  # of the frame table that a step passes over
_FRAME_STEPS: Final = 64  # of a frame that is asked for in Python, one at a time
_PASSES: Final = 3  # over the tables, one a level
_BY_FRAME: Final = frozenset({"move"})
_STORES: Final = frozenset({"zero_frames", "_store_entries"})
_OF_TABLES: Final = frozenset({"split_all", "merge_all"})
_OF_MEMORY: Final = frozenset({"destroy", "wipe", "release_all"})
_TAKES_RANGES: Final = frozenset({"populate_physmap"})
_LOOKED_AT: Final = 1 << 20  # bytes: below, what is resident is not read anew
_RECORD_COST: Final = 8  # bytes in memory of a byte of a record: its integers become Python's


def default_work(journal_bytes: int) -> int:
    """Return the steps that a journal of so many bytes may take."""
    return BASE_WORK + WORK_PER_BYTE * journal_bytes


class ReplayLimits:
    """The budget of one replay; `work` is what was charged.

    Parameters
    ----------
    path : the journal, for errors
    memory : what the machine may hold beside what this process held before
    most_work : the steps that all operations together may take
    """

    def __init__(self, path: Path, memory: MemoryLimit, most_work: int) -> None:
        self.work = 0
        self._path, self._memory, self._most = path, memory, most_work
        self._before = resident_bytes()
        self._resident, self._since = 0, 0

    @property
    def record_bytes(self) -> int:
        """The most that one record may unpack to."""
        return min(MAX_RECORD_BYTES, self._memory.bytes_ // _RECORD_COST)

    def charge_digest(self, machine: Machine) -> None:
        """Charge a digest of the machine.

        Raises
        ------
        FormatError : more work than is left
        """
        self._charge(machine.frames // _FRAMES_A_STEP + _DIGEST_TABLE * _arena_frames(machine), "its digest")

    def check_map(self, content: bytes) -> None:
        """Charge the free map that the machine starts from, before it is unpacked.

        Raises
        ------
        FormatError : more work than is left, or more memory than may be held
        """
        runs = promised_runs(content)
        self._charge(_RUN_STEPS * runs, "its free map")
        self._check_memory(_RUN_BYTES * runs, "its free map")

    def check(self, machine: Machine, call: Call, arguments: Mapping[str, Any] | None) -> "Cost | None":
        """Refuse an operation that may come to more than is left; return what to charge for when it is done.

        Raises
        ------
        FormatError : by what it is too much, and what allows more
        """
        self._charge(_LEAST + _BYTE_STEPS * call.bytes_, str(call))
        if arguments is None:
            return None
        domain = machine.domains.get(call.domid)
        cost = Cost(machine, domain, call.method, arguments)
        self._charge(cost.certain, str(call))
        self._require(cost.at_most, str(call))
        self._require_memory(machine, cost.bytes_, str(call))
        return cost

    def note(self, cost: "Cost | None") -> None:
        """Charge what an operation has changed."""
        if cost is not None:
            self.work += cost.changed()

    def _charge(self, steps: int, what: str) -> None:
        self._require(steps, what)
        self.work += steps

    def _require(self, steps: int, what: str) -> None:
        if self.work + steps > self._most:
            left = f"{max(0, self._most - self.work):,} of {self._most:,} are left; max_work allows more"
            raise FormatError(
                self._path, f"asks for more work than it may: {what} may come to {steps:,} steps, and {left}"
            )

    def _require_memory(self, machine: Machine, bytes_: int, what: str) -> None:
        self._since += bytes_
        if self._since >= _LOOKED_AT:
            self._resident, self._since = resident_bytes() - self._before, bytes_
        self._check_memory(max(0, self._resident) + _arena_frames(machine) * FRAME_BYTES + bytes_, what)

    def _check_memory(self, bytes_: int, what: str) -> None:
        if bytes_ > self._memory.bytes_:
            asked, most = format_bytes(bytes_), format_bytes(self._memory.bytes_)
            problem = f"{what} may come to {asked}, and {most} may be held; max_memory allows more"
            raise FormatError(self._path, f"asks for more memory than it may: {problem}")


class Cost:
    """What one operation may come to.

    Attributes
    ----------
    certain : steps that it takes whatever it finds
    at_most : steps, all that it may change included
    bytes_ : of memory, at most
    """

    def __init__(self, machine: Machine, domain: Domain | None, method: str, arguments: Mapping[str, Any]) -> None:
        self._machine, self._domain = machine, domain
        self._before = self._counts()
        self.certain, self.bytes_, made, named = 0, _stored(arguments), 0, 0
        if method == "digest":
            self.certain = machine.frames // _FRAMES_A_STEP + _DIGEST_TABLE * _arena_frames(machine)
        elif method == "create_domain":
            self.certain = min(_pool_of(arguments), machine.heap.free_frames)
            self.bytes_ += self.certain * _GFN_BYTES
        elif domain is not None and method in _OF_TABLES:
            self.certain = _PASSES * domain.p2m.tables * _ENTRIES
            made = min(domain.p2m.free_tables, _splits(domain, arguments)) if method == "split_all" else 0
        elif domain is not None and method in _OF_MEMORY:
            self.certain = machine.frames // _FRAMES_A_SCAN
            named = domain.memory.owned_frames + domain.p2m.tables * _ENTRIES
        else:
            made, named = self._of_arguments(method, arguments)
        self.at_most = self.certain + named + made * (_ENTRIES + _DIGEST_TABLE)
        self.bytes_ += made * FRAME_BYTES

    def _of_arguments(self, method: str, arguments: Mapping[str, Any]) -> tuple[int, int]:
        """Return (tables, frames) that an operation on what its arguments name may make, and change."""
        machine, domain = self._machine, self._domain
        order = min(max((_whole(each) for name, each in arguments.items() if name.endswith("order")), default=0), 52)
        places = _places(arguments, machine.frames, may_be_long=method in _TAKES_RANGES)
        frames = max(places << order, _lengths(arguments.get("frames")))
        self.certain = places
        self.bytes_ += places * _GFN_BYTES + min(frames, machine.frames) * _FRAME_BYTES
        if method in _BY_FRAME:
            self.certain += _FRAME_STEPS * min(frames, machine.frames)
            self.bytes_ += min(frames, _arena_frames(machine)) * FRAME_BYTES
        if method in _STORES:
            self.bytes_ += min(places, machine.frames) * FRAME_BYTES
        if domain is None:
            return 0, min(frames, machine.frames)
        made = min(domain.p2m.free_tables, _tables_over(arguments, order, frames))
        # What is neither a frame of the machine nor an entry of a table is never looked at.
        return made, min(frames, machine.frames + (domain.p2m.tables + made) * _ENTRIES)

    def changed(self) -> int:
        """Return the steps of what the operation has changed."""
        before, after = self._before, self._counts()
        tables, leaves, owned, arena = (abs(new - old) for new, old in zip(after, before, strict=True))
        return tables * _ENTRIES + leaves + owned // _FRAMES_A_STEP + arena * _DIGEST_TABLE

    def _counts(self) -> tuple[int, int, int, int]:
        """Return tables that were ever made or freed, leaves, free frames, and frames of the arena that exist."""
        arena, free = _arena_frames(self._machine), self._machine.heap.free_frames
        if self._domain is None:
            return 0, 0, free, arena
        counters = self._domain.p2m.counters
        tables = counters.tables_allocated + counters.tables_freed
        return tables, self._domain.p2m.entries, free, arena


def _arena_frames(machine: Machine) -> int:
    """Return the frames of the machine's memory that exist."""
    return os.fstat(machine.arena.fd).st_blocks * 512 >> FRAME_SHIFT  # st_blocks counts 512 bytes, whatever the pages


def _splits(domain: Domain, arguments: Mapping[str, Any]) -> int:
    """Return the tables that splitting a range takes; none where the operation itself is going to refuse it."""
    try:
        return domain.p2m.split_need(arguments["gfns"], arguments["order"])
    except (TwofoldError, TypeError, ValueError, AttributeError, OverflowError):
        return 0


def _pool_of(arguments: Mapping[str, Any]) -> int:
    """Return the tables of a new domain."""
    options = arguments["options"]
    if isinstance(options, DomainOptions) and options.table_pool is not None:
        return _whole(options.table_pool)
    try:
        return default_frames(parse_frames(arguments["size"]))
    except (TwofoldError, TypeError):
        return 0


def _tables_over(arguments: Mapping[str, Any], order: int, frames: int) -> int:
    """Return how many tables stand over all that the arguments name, of all levels together."""
    firsts = [value for name, value in arguments.items() if name.endswith("gfns") and value is not None]
    return sum(_regions(firsts, order, frames, shift) for shift in _LEVEL_SHIFTS)


def _regions(lists: list[Any], order: int, frames: int, shift: int) -> int:
    """Return how many regions of 2**shift frames are touched at most."""
    found = (frames >> shift) + 2
    for each in lists:
        if isinstance(each, range) or not _length(each):
            continue
        try:
            distinct = len(np.unique(np.asarray(each).astype(np.uint64) >> np.uint64(shift)))
        except (TypeError, ValueError, OverflowError):  # nonsense, which the operation refuses
            continue
        found += distinct * (1 + (1 << max(0, order - shift)))
    return found


def _places(arguments: Mapping[str, Any], machine_frames: int, *, may_be_long: bool) -> int:
    """Return how many places the arguments name: the longest list, or a number of extents.

    may_be_long : a range is taken as it is; otherwise an array is made of it
    """
    named = [
        min(_length(value), machine_frames) if may_be_long and isinstance(value, range) else _length(value)
        for value in arguments.values()
    ]
    return max(1, *named, min(_whole(arguments.get("extents")), machine_frames))


def _length(value: object) -> int:
    if isinstance(value, range):  # `len` refuses one of more than 2**63
        return max(0, -((value.start - value.stop) // value.step))
    if isinstance(value, np.ndarray):
        return int(value.size)
    return len(value) if isinstance(value, list | tuple) else 0


def _lengths(value: object) -> int:
    return int(value.sum(dtype=np.float64)) if isinstance(value, np.ndarray) and value.size else _whole(value)


def _whole(value: object) -> int:
    return max(0, int(value)) if isinstance(value, int | np.integer) else 0


def _stored(arguments: Mapping[str, Any]) -> int:
    """Return the bytes that the arguments store, frames begun included."""
    texts = sum(len(value) for value in arguments.values() if isinstance(value, bytes))
    return texts + 2 * FRAME_BYTES if texts else 0
