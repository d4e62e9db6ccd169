"""Somebody else's P2M, read-only, out of any file that a reader knows: the same look-ups, and the audit.

Nothing in such a file is trusted. The audit reads the tables as they are. Look-ups follow only entries that lead to a
table of the file that no entry before leads to: whatever else there is, loops, wild pointers, tables reached twice,
translates nothing, so no look-up can run away. Only tables are read (`collect`), never the data of a guest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from twofold import kernels
from twofold.dumps.collect import CollectedTables, Reached, copied
from twofold.dumps.followed import Followed
from twofold.dumps.npz import check_room
from twofold.dumps.raw_pages import FILE_NAME
from twofold.dumps.readers import DumpReader, open_dump
from twofold.dumps.source import Dump, DumpRoot
from twofold.errors import FormatError, UnknownNameError
from twofold.formats import findings, shape
from twofold.formats.table_formats import P2M_FORMATS, TableFormat
from twofold.machine import Arena
from twofold.machine.gate import hold, look
from twofold.p2m import AuditReport, Fault, Finding, P2MView, WalkStep
from twofold.p2m.audit import Audit, Progress
from twofold.units import FRAME_BYTES, FRAME_SHIFT, Gfn, Mfn

Array = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Found:
    """One P2M of a file, its tables read.

    dump : what the file holds besides
    root : where the tables begin, and whose they are
    table_format : how to read them
    arena : memory that holds them, each at its place
    reached : which they are, and which the file does not hold
    """

    dump: Dump
    root: DumpRoot
    table_format: TableFormat
    arena: Arena
    reached: Reached

    def audit(self, progress: Progress | None) -> AuditReport:
        """Check the tables as they are."""
        memory = self.arena.tables_of(self.table_format.entry_dtype)
        audit = Audit(kernels, self.table_format, memory, Mfn(self.root.mfn), progress)
        machine = self.dump.machine
        if machine is not None:
            report = audit.of_machine(machine.frame_table, machine.m2p.complement, machine.orders, self.root.domid)
        else:
            # A copy of one kind, whatever the reader's: kernels are compiled once more for an array that is read-only.
            tables = np.array(self.reached.mfns if self.dump.tables is None else self.dump.tables, np.uint64)
            report = audit.of_tables(tables)
            if len(self.reached.missing):
                report = replace(report, skipped=(*report.skipped, self._unread()))
        return report if self._has_root else _without_root(report, self.root.mfn, self.table_format)

    def _unread(self) -> str:
        missing = self.reached.missing
        first = f"the first at mfn {int(missing[0]):#x}"
        return f"{len(missing)} frames that are named as tables are not in the file, {first}: what they would map"

    @property
    def _has_root(self) -> bool:
        return self.root.mfn in self.reached.mfns


def _without_root(report: AuditReport, mfn: int, table_format: TableFormat) -> AuditReport:
    """Return a report that begins with the root: the audit reads it as one that maps nothing."""
    hole = Finding(findings.TABLE_NOT_OWNED, Gfn(0), Mfn(mfn), table_format.geometry.levels, 0)
    return replace(report, findings=(hole, *report.findings), found=report.found + 1)


class OpenTables(P2MView):
    """A P2M out of a file."""

    def __init__(self, found: Found) -> None:
        self.name = found.root.name
        self._found = found
        self._as_found = found.arena
        followed = Followed(found.arena, found.reached.mfns, found.table_format, found.root.mfn)
        if not len(followed.wild):
            arena = self._as_found
        else:  # look-ups get tables in which wild entries are holes
            arena = copied(found.arena, found.reached.mfns)
            tables = arena.tables_of(found.table_format.entry_dtype)
            tables[tuple(followed.wild.T)] = int(found.table_format.shape[shape.EMPTY])
        super().__init__(arena, kernels, found.table_format, Mfn(found.root.mfn))
        self.gate.on_end(self._shut)
        self.gate.name = f"the tables of {self.name}" if self.name else "the tables"
        self._entries, self._only_ram = followed.entries, False
        self._limit = followed.end
        self.tables = followed.tables

    @property
    def _is_trusted(self) -> bool:
        return False

    @look
    def walk(self, gfn: int) -> tuple[WalkStep, ...]:
        """Return every step of a walk; the entries as the file has them."""
        memory = self._as_found.tables_of(self.format.entry_dtype)
        return tuple(
            WalkStep(step.level, step.table, step.slot, int(memory[step.table, step.slot]))
            for step in super().walk(gfn)
        )

    @look
    def fault(self, gpa: int, access: str = "read") -> Fault | None:
        """Return how hardware reports an access that it refuses, None for one that it lets through; sets no A or D."""
        path = super().walk(gpa >> FRAME_SHIFT)
        answer = super().fault(gpa, access)
        for step in path:
            self._memory[step.table, step.slot] = step.entry
        return answer

    @look
    def audit(self, progress: Progress | None = None) -> AuditReport:
        """Check the tables, against frame table and M2P where the file has them; report only.

        Parameters
        ----------
        progress : called with (frames done, frames of the machine)
        """
        return self._found.audit(progress)

    def close(self) -> None:
        """Give the memory back; nothing works afterwards."""
        hold(self.gate.lock, self._close)

    def _close(self) -> None:
        self._words = memoryview(b"").cast("Q")
        self._arena.close()
        if self._as_found is not self._arena:
            self._as_found.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tables(
    path: str | Path,
    *,
    domain: str | int | None = None,
    table_format: str | None = None,
    root: int | None = None,
    reader: str | DumpReader | None = None,
) -> OpenTables:
    """Return somebody else's P2M, read-only, with the look-ups and the audit of one of ours.

    Parameters
    ----------
    path : a machine saved by `Machine.save`, raw page-table pages (.npz with mfn, level, pages), a folder that holds
        `npt_pages.npz`, or what the reader of another package knows (docs/dumps.md)
    domain : name or domid, where a file has several
    table_format : such as "ept", where the file does not say; None: the NPT with as many levels
    root : mfn of the top table, where the file names none, or instead of those that it names
    reader : who is to open the file, by name or itself; None: the one that knows it

    Raises
    ------
    FormatError : the file is not what it should be
    UnknownNameError : no such domain, format or reader
    """
    with _opened(Path(path), table_format, root, reader) as (where, dump):
        wanted = _wanted(where, dump, domain, table_format)
        if len(wanted) != 1:
            names = ", ".join(each.name or f"root {each.mfn:#x}" for each, _ in wanted)
            problem = f"holds {len(wanted)} domains; say which: {names}" if wanted else "holds no domain"
            raise FormatError(where, problem)
        tables = CollectedTables(where, dump)
        try:
            found = _found(dump, tables, *wanted[0])
            check_room(where, len(found.reached.mfns) * FRAME_BYTES)
            return OpenTables(found)
        except BaseException:
            tables.arena.close()
            raise


@contextmanager
def _opened(
    path: Path, table_format: str | None, root: int | None, reader: str | DumpReader | None
) -> Iterator[tuple[Path, Dump]]:
    """Open a file while its tables are read, and put a root of the caller's in the place of its own."""
    if table_format is not None and table_format not in P2M_FORMATS:
        raise UnknownNameError("table format", table_format, tuple(P2M_FORMATS))
    path = path / FILE_NAME if path.is_dir() else path
    dump = open_dump(path, reader)
    try:
        if root is None and not dump.roots and dump.machine is None:
            raise FormatError(path, "does not say where its tables begin: name the root")
        if root is not None:
            if not 0 <= root < dump.frames:
                raise FormatError(path, f"has no mfn {root:#x} to begin at: it ends at {dump.frames:#x}")
            dump = replace(dump, roots=(DumpRoot(root),), machine=None)
        yield path, dump
    finally:
        dump.release()


def _wanted(
    path: Path, dump: Dump, domain: str | int | None, table_format: str | None
) -> list[tuple[DumpRoot, TableFormat]]:
    """Return the roots of a domain, or all, and how to read each."""
    if domain is not None and not any(each.domid or each.name for each in dump.roots):
        raise FormatError(path, "holds tables of which nobody knows the domain: name none")
    wanted = [each for each in dump.roots if domain is None or domain in {each.name, each.domid, str(each.domid)}]
    if domain is not None and not wanted:
        raise UnknownNameError("domain", str(domain), tuple(each.name for each in dump.roots))
    return [(each, each.format_of(path, table_format)) for each in wanted]


def _found(dump: Dump, tables: CollectedTables, root: DumpRoot, table_format: TableFormat) -> Found:
    return Found(dump, root, table_format, tables.arena, tables.reach(table_format, root.mfn))


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
    root: int | None = None,
    reader: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Audited]:
    """Audit every P2M of a file; `open_tables` says what it may be.

    Parameters
    ----------
    progress : called with (which, frames done, frames of the machine)
    """
    with _opened(Path(path), table_format, root, reader) as (where, dump):
        wanted = _wanted(where, dump, domain, table_format)
        tables = CollectedTables(where, dump)  # one file, one set of tables: those of all domains
        try:
            return [_audited(_found(dump, tables, *each), progress) for each in wanted]
        finally:
            tables.arena.close()


def _audited(found: Found, progress: Callable[[str, int, int], None] | None) -> Audited:
    name, format_name = found.root.name, found.table_format.name
    which = f"auditing {name or format_name}"
    tell = None if progress is None else (lambda done, total: progress(which, done, total))
    return Audited(name, format_name, Mfn(found.root.mfn), found.audit(tell))
