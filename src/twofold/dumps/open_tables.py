"""Somebody else's P2M, read-only: a saved machine, or raw page-table pages. The same look-ups, and the audit.

Nothing in such a file is trusted. The audit reads the tables as they are. Look-ups follow only entries that lead to a
table of the file that no entry before leads to: whatever else there is, loops, wild pointers, tables reached twice,
translates nothing, so no look-up can run away.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.dumps.npz import check_room, column_names
from twofold.dumps.raw_pages import FILE_NAME, RawPages, read_pages
from twofold.dumps.saved_machine import SavedMachine, read_machine
from twofold.errors import FormatError, UnknownNameError
from twofold.formats import shape
from twofold.formats.table_formats import P2M_FORMATS, TableFormat
from twofold.machine import Arena
from twofold.p2m.audit import Audit, Progress
from twofold.p2m.results import AuditReport, Fault, WalkStep
from twofold.p2m.view import P2MView
from twofold.units import FRAME_SHIFT, Mfn

Array = npt.NDArray[np.uint64]
_STEP: Final = 1 << 10  # tables looked through at a time: some 4 MiB


@dataclass(frozen=True)
class Found:
    """One P2M of a file.

    pages : its page-table pages
    table_format, root : how to read them, and where to begin
    name, domid : of the domain; "" and 0 when nobody knows
    machine : what the audit holds the tables against, if the file has it
    """

    pages: RawPages
    table_format: TableFormat
    root: Mfn
    name: str = ""
    domid: int = 0
    machine: SavedMachine | None = None

    def audit(self, arena: Arena, progress: Progress | None) -> AuditReport:
        """Check the tables as they are; `arena` is `filled_arena` of the pages."""
        memory = arena.tables_of(self.table_format.entry_dtype)
        audit = Audit(kernels, self.table_format, memory, self.root, progress)
        if self.machine is None:
            return audit.of_tables(self.pages.mfns)
        return audit.of_machine(self.machine.frame_table, self.machine.m2p.complement, self.machine.orders, self.domid)


class OpenTables(P2MView):
    """A P2M out of a file."""

    def __init__(self, found: Found) -> None:
        self.name = found.name
        self._found = found
        self._as_found = filled_arena(found.pages)
        followed = _Followed(found.pages, found.table_format, found.root)
        if not len(followed.wild):
            arena = self._as_found
        else:  # look-ups get tables in which wild entries are holes
            arena = filled_arena(found.pages)
            tables = arena.tables_of(found.table_format.entry_dtype)
            tables[tuple(followed.wild.T)] = int(found.table_format.shape[shape.EMPTY])
        super().__init__(arena, kernels, found.table_format, found.root)
        self._entries, self._only_ram = followed.entries, False
        self._limit = followed.end
        self.tables = followed.tables

    @property
    def _is_trusted(self) -> bool:
        return False

    def walk(self, gfn: int) -> tuple[WalkStep, ...]:
        """Return every step of a walk; the entries as the file has them."""
        memory = self._as_found.tables_of(self.format.entry_dtype)
        return tuple(
            WalkStep(step.level, step.table, step.slot, int(memory[step.table, step.slot]))
            for step in super().walk(gfn)
        )

    def fault(self, gpa: int, access: str = "read") -> Fault | None:
        """Return how hardware reports an access that it refuses, None for one that it lets through; sets no A or D."""
        path = super().walk(gpa >> FRAME_SHIFT)
        answer = super().fault(gpa, access)
        for step in path:
            self._memory[step.table, step.slot] = step.entry
        return answer

    def audit(self, progress: Progress | None = None) -> AuditReport:
        """Check the tables, against frame table and M2P where the file has them; report only.

        Parameters
        ----------
        progress : called with (frames done, frames of the machine)
        """
        return self._found.audit(self._as_found, progress)

    def close(self) -> None:
        """Give the memory back; nothing works afterwards."""
        self._words.release()
        self._arena.close()
        if self._as_found is not self._arena:
            self._as_found.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Followed:
    """What a walk over all tables meets, level by level, each table once.

    wild : int64[n, 2], (table, slot) of present entries that lead to no table of their own
    entries : leaves and typed entries;  tables : tables met;  end : first gfn above everything mapped
    """

    def __init__(self, pages: RawPages, table_format: TableFormat, root: Mfn) -> None:
        self._pages, self._words = pages, table_format.shape
        self._levels = table_format.geometry.levels
        self._bits = table_format.geometry.index_bits
        self._slots = 1 << table_format.geometry.top_bits
        self._dtype = table_format.entry_dtype
        self._large_levels = int(self._words[shape.LARGE_LEVELS])
        self.entries, self.end, self.tables = 0, 0, 0
        self._wild: list[npt.NDArray[np.int64]] = []
        seen = np.zeros(len(pages.mfns), np.bool_)
        place = int(np.searchsorted(pages.mfns, np.uint64(root)))
        if place < len(seen) and int(pages.mfns[place]) == root:
            tables, gfns = np.array([place], np.int64), np.zeros(1, np.uint64)
            seen[place] = True
            for level in range(self._levels - 1, -1, -1):
                tables, gfns = self._follow(tables, gfns, level, seen)
        self.wild = np.concatenate([np.zeros((0, 2), np.int64), *self._wild])

    def _follow(
        self, tables: npt.NDArray[np.int64], gfns: Array, level: int, seen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Array]:
        """Look through the tables of one level; return those below them, with their first gfns."""
        self.tables += len(tables)
        below, firsts = [], []
        for start in range(0, len(tables), _STEP):
            here = tables[start : start + _STEP]
            found = self._look_through(here, gfns[start : start + _STEP], level, seen)
            below.append(found[0])
            firsts.append(found[1])
        if not below:
            return tables[:0], gfns[:0]
        return np.concatenate(below), np.concatenate(firsts)

    def _look_through(
        self, tables: npt.NDArray[np.int64], gfns: Array, level: int, seen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Array]:
        words, top = self._words, level == self._levels - 1
        entries = self._pages.pages[tables].view(self._dtype)[:, : self._slots if top else None].astype(np.uint64)
        rows, slots = np.nonzero((entries & ~words[shape.EMPTY]) != 0)
        found = entries[rows, slots]
        firsts = gfns[rows] + (slots.astype(np.uint64) << np.uint64(self._bits * level))
        leads = (found & words[shape.PRESENT]) != 0
        if not level:
            leads[:] = False
        elif self._large_levels >> level & 1:
            leads &= (found & words[shape.LARGE]) == 0
        self.entries += int((~leads).sum())
        ends = firsts[~leads]
        if len(ends):
            self.end = max(self.end, int(ends.max()) + (1 << self._bits * level))
        mfns = (found[leads] & words[shape.FRAME]) >> np.uint64(FRAME_SHIFT)
        places = np.searchsorted(self._pages.mfns, mfns)
        inside = places < len(seen)
        is_own = inside & (self._pages.mfns[np.where(inside, places, 0)] == mfns)
        first_of = np.zeros(len(mfns), np.bool_)
        first_of[np.unique(np.where(is_own, places, -1), return_index=True)[1]] = True
        is_own &= first_of & ~seen[np.where(inside, places, 0)]
        seen[places[is_own]] = True
        at = np.stack([self._pages.mfns[tables[rows[leads]]].astype(np.int64), slots[leads]], axis=1)
        self._wild.append(at[~is_own])
        return places[is_own], firsts[leads][is_own]


def filled_arena(pages: RawPages) -> Arena:
    """Return memory with every page at its place. Pages of zeros are left out: memory reads as zero."""
    arena = Arena(max(1, pages.frames))
    for start in range(0, len(pages.mfns), _STEP):
        part = pages.pages[start : start + _STEP].view(np.uint64)
        used = part.any(axis=1)
        arena.tables[pages.mfns[start : start + _STEP][used].astype(np.int64)] = part[used]
    return arena


def open_tables(path: str | Path, *, domain: str | int | None = None, table_format: str | None = None) -> OpenTables:
    """Return somebody else's P2M, read-only, with the look-ups and the audit of one of ours.

    Parameters
    ----------
    path : a machine saved by `Machine.save`, raw page-table pages (.npz with mfn, level, pages), or a folder that holds
        `npt_pages.npz`
    domain : name or domid, where a saved machine has several
    table_format : of raw pages, such as "ept"; None: the NPT with as many levels

    Raises
    ------
    FormatError : the file is not what it should be
    UnknownNameError : no such domain, or no such format
    """
    found = find_tables(path, table_format=table_format, domain=domain)
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        raise FormatError(path, f"holds {len(found)} domains; say which: {names}" if found else "holds no domain")
    check_room(Path(path), 2 * found[0].pages.pages.nbytes)
    return OpenTables(found[0])


def find_tables(path: str | Path, *, table_format: str | None = None, domain: str | int | None = None) -> list[Found]:
    """Return every P2M of a file, or the one of `domain`; `open_tables` says more."""
    if table_format is not None and table_format not in P2M_FORMATS:
        raise UnknownNameError("table format", table_format, tuple(P2M_FORMATS))
    where = Path(path)
    if where.is_dir():
        where /= FILE_NAME
    if "about" not in column_names(where):
        if domain is not None:
            raise FormatError(where, "holds raw pages, of which nobody knows the domain: name none")
        pages, chosen, root = read_pages(where, table_format)
        return [Found(pages, chosen, root)]
    if table_format is not None:
        raise FormatError(where, "is a saved machine and says itself what its tables are: name no format")
    machine = read_machine(where)
    known = tuple(each.name for each in machine.domains)
    wanted = [each for each in machine.domains if domain is None or domain in {each.name, each.domid, str(each.domid)}]
    if domain is not None and not wanted:
        raise UnknownNameError("domain", str(domain), known)
    return [Found(machine.tables, each.table_format, each.root, each.name, each.domid, machine) for each in wanted]


@dataclass(frozen=True)
class Audited:
    """What an audit of one P2M of a file found. name : of the domain, "" when nobody knows it."""

    name: str
    table_format: str
    root: Mfn
    report: AuditReport

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and texts; each finding with its sentence."""
        fields = asdict(self)
        for finding, row in zip(self.report.findings, fields["report"]["findings"], strict=True):
            row["says"] = str(finding)
        return fields


def audit_file(
    path: str | Path,
    *,
    domain: str | None = None,
    table_format: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Audited]:
    """Audit every P2M of a file; `open_tables` says what it may be.

    Parameters
    ----------
    progress : called with (which, frames done, frames of the machine)
    """
    found = find_tables(path, domain=domain, table_format=table_format)
    if not found:
        return []
    check_room(Path(path), found[0].pages.pages.nbytes)
    arena, audited = filled_arena(found[0].pages), []  # one file, one set of pages: all domains are in it
    for each in found:
        which = f"auditing {each.name or each.table_format.name}"
        tell = None if progress is None else (lambda done, total, which=which: progress(which, done, total))
        audited.append(Audited(each.name, each.table_format.name, each.root, each.audit(arena, tell)))
    arena.close()
    return audited
